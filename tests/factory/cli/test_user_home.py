"""A user without a home directory or a name, as in many containers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from factory.cli.user_home import ensure_user_home
from osasis.errors import UserError

# An id that no user has runs this; only root may take another id.
AS_NOBODY = """
import getpass, os, sys
from pathlib import Path
from factory.cli.user_home import ensure_user_home
os.setgid(54321)
os.setuid(54321)
ensure_user_home(Path(sys.argv[1]))
print(Path.home(), getpass.getuser())
"""


def test_a_usable_home_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    ensure_user_home(tmp_path / "other")
    assert os.environ["HOME"] == str(tmp_path) and not (tmp_path / "other").exists()


def test_a_home_that_is_no_folder_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/dev/null")
    ensure_user_home(tmp_path / "home")
    assert Path.home() == tmp_path / "home" and (tmp_path / "home").is_dir()


def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/dev/null")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"HOME is /dev/null.*{tmp_path}/file/home"):
        ensure_user_home(tmp_path / "file" / "home")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can take another user id")
def test_a_user_id_without_a_name() -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "USER", "LOGNAME")}
    # Not below tmp_path, which other users may not enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        ran = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, f"{folder}/home"],
            capture_output=True, text=True, check=True, env=environment,
        )  # fmt: skip
    assert ran.stdout.split() == [f"{folder}/home", "uid-54321"]

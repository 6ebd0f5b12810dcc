"""The folder of this machine's copies."""

from __future__ import annotations

from pathlib import Path

import pytest

from factory.core import local_cache
from factory.core.local_cache import CACHE_VARIABLE, cache_folder


def test_a_folder_that_others_can_read_holds_a_private_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    folder = cache_folder()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
    # As a process leaves it that has made it again after somebody deleted it.
    folder.chmod(0o755)
    local_cache._private_folder.cache_clear()
    assert cache_folder() == folder and folder.stat().st_mode & 0o777 == 0o700


def test_a_link_in_its_place_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    name = cache_folder().name
    other = tmp_path / "other"
    other.mkdir()
    (other / name).symlink_to(tmp_path, target_is_directory=True)
    monkeypatch.setenv(CACHE_VARIABLE, str(other))
    assert not cache_folder().is_relative_to(other)

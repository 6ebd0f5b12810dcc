"""A job that cannot make every output says so: full disks, lost job folders."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from factory.core.claims import Holder
from factory.core.home import Home
from osasis.errors import UserError
from osasis.storage import DiskFullError, write_json
from pipelines import stylize
from pipelines.job_folder import DONE, FAILED, MISSING, JobFolder
from pipelines.manifest import build_manifest
from pipelines.result import StylizeResult
from pipelines.source import open_source
from tests.conftest import ROOT
from tests.pipelines.conftest import state_of, written
from tests.pipelines.test_operators import Run, run
from tests.tiny import picture

__all__ = ["run"]

Full = Callable[[Path, int], None]


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Full:
    """Fills a folder's disk, for this process, after a number of further files."""
    write = Path.write_bytes
    room: dict[Path, int] = {}

    def write_bytes(path: Path, data: bytes) -> int:
        for folder in room:
            if path.is_relative_to(folder):
                if room[folder] <= 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                room[folder] -= 1
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    return room.__setitem__


def test_rows_without_room_are_missing_and_not_failed(
    run: Run, full_disk: Full, tmp_path: Path
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for i in range(3):
        picture(i).save(source / f"{i}.png")
    full_disk(output / "good", 2)
    with pytest.raises(DiskFullError, match=r"^the disk of .*/out/good is full \("):
        run(source)
    assert set(written(output)) == {"good/0.png", "good/1.png"}
    assert not list(output.rglob("*.part"))
    folder = JobFolder(output)
    manifest = build_manifest(open_source(source), [[0, 1]] * 3, {})
    full_disk(output / "good", 1000)
    assert folder.open({"input": ""}, manifest)
    # The style "bad" fails for another reason, and is recorded up to the full disk.
    assert [folder.count(s) for s in (DONE, FAILED, MISSING)] == [2, 2, 2]


@pytest.fixture
def finished(
    gallery: Home, photos: Path, local_ray: None, tmp_path: Path
) -> tuple[Callable[..., StylizeResult], Path]:
    """A call whose job is finished, and its output."""
    output = tmp_path / "out"

    def call(**options: object) -> StylizeResult:
        return stylize(
            ["oil"],
            photos,
            output,
            home=gallery,
            workers=1,
            size="base",
            **options,  # type: ignore[arg-type]
        )

    assert call().stopped == ""
    return call, output


def test_a_finished_job_needs_no_room(
    finished: tuple[Callable[..., StylizeResult], Path], full_disk: Full
) -> None:
    call, output = finished
    before = written(output)
    full_disk(output, 0)
    again = call()
    assert (again.images, again.done_now, again.stopped, again.errors) == (9, 0, "", ())
    assert written(output) == before


def test_an_unfinished_job_on_a_full_disk_is_refused_at_once(
    finished: tuple[Callable[..., StylizeResult], Path], full_disk: Full
) -> None:
    call, output = finished
    (log,) = (output / ".job" / state_of(output) / "log").iterdir()
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-2]))
    full_disk(output, 0)
    with pytest.raises(DiskFullError, match=r"/out/\.job/state-\w+ is full \("):
        call()
    full_disk(output, 1000)
    again = call()
    assert (again.images, again.stopped, again.errors) == (9, "", ())
    assert again.done_now > 0


@pytest.mark.parametrize("cause", ["gone", "taken over"])
def test_a_lost_job_ends_at_once_and_says_so(
    cause: str, gallery: Home, photos: Path, local_ray: None, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    lines: list[dict[str, object]] = []

    def lose(line: str) -> None:
        lines.append(json.loads(line))
        if lines[-1]["event"] != "start":
            return
        if cause == "gone":
            shutil.rmtree(output / ".job")
        else:
            write_json(output / ".job" / "driver.claim", asdict(Holder("another", "token")))

    result = stylize(["oil"], photos, output, home=gallery, workers=1, report=lose)
    # Outputs that were written before the loss was noticed are counted by their files.
    there = len(list(output.rglob("*.png")))
    assert there < 9
    assert result.stopped == (
        f"stopped: {output}/.job is gone (or another job has taken it over); {there} of 9 are there"
    )
    assert result.stopped in str(lines[-1]["text"])
    # The folder may be another job's by now.
    assert not (output / "summary.json").exists()
    assert (output / ".job").exists() == (cause == "taken over")


def test_a_job_that_another_driver_holds_is_refused(tmp_path: Path) -> None:
    first, second = JobFolder(tmp_path), JobFolder(tmp_path)
    with first.locked():
        with pytest.raises(UserError, match="another `stylize` is writing there"), second.locked():
            pass
        assert second.lost()
    with second.locked():
        pass


def test_a_killed_drivers_job_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factory.core.claims.LEASE_SECONDS", 1.0)
    killed, told = Holder("killed", "token"), []
    write_json(tmp_path / ".job" / "driver.claim", asdict(killed))
    with JobFolder(tmp_path).locked(told.append):
        pass
    (line,) = told
    assert line.startswith(f"{tmp_path}: an earlier `stylize` has not given this job back")


# A real full disk


def can_mount() -> bool:
    command = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return shutil.which("unshare") is not None and (
        subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.skipif(not can_mount(), reason="needs a mount namespace")
def test_a_full_disk_stops_a_job_and_the_same_command_finishes_it(
    gallery: Home, tmp_path: Path
) -> None:
    source, small = tmp_path / "in", tmp_path / "small"
    source.mkdir()
    small.mkdir()
    for i in range(64):
        picture(i, (64, 64)).save(source / f"{i}.png")
    script = """
        mount -t tmpfs -o size=300k none "$0" || exit 9
        "$@"; echo "code $?"
        find "$0" -name '*.png' | wc -l
        mount -o remount,size=20m "$0"
        "$@"; echo "code $?"
        find "$0" -name '*.png' | wc -l
        find "$0" -name '*.part'
    """
    ran = subprocess.run(
        [
            *("unshare", "--map-root-user", "--mount", "sh", "-c", script, str(small)),
            *(sys.executable, "-m", "factory.cli", "stylize", "--home", str(gallery.path)),
            *("--styles", "oil", "--input", str(source), "--output", str(small / "out")),
            *("--workers", "1", "--json"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    first, _, rest = ran.stdout.partition("code 1\n")
    document = json.loads(first)
    assert document["stopped"].startswith(f"stopped: the disk of {small}/out")
    assert document["stopped"].endswith(
        f"; {document['images']} of 64 are there; run the same command again to continue"
    )
    assert (document["failed"], document["errors"]) == (0, [])
    files, _, rest = rest.partition("\n")
    assert 0 <= document["images"] <= int(files) < 64
    second, _, rest = rest.partition("code 0\n")
    document = json.loads(second)
    assert (document["images"], document["failed"], document["stopped"]) == (64, 0, "")
    assert rest == "64\n"
    assert "Traceback" not in ran.stderr and "DataContext" not in ran.stderr

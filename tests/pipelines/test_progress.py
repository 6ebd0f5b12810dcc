"""Progress of a corpus: what is written, what is only computed, pace and estimate."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from factory.core.home import Home
from pipelines import progress, stylize
from pipelines.job_folder import JobFolder, record_computed
from pipelines.progress import Progress


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 5000.0 + self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


def told(lines: list[str]) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(lines[-1])
    return said


def test_pace_counts_what_is_computed_before_it_is_written(clock: Clock) -> None:
    lines: list[str] = []
    job = Progress(lines.append)
    job.start("go", total=36, before=6)
    clock.now = 108
    job.update(6, 0)
    assert len(lines) == 1
    clock.now = 111  # the actors start
    job.update(6, 0)
    said = told(lines)
    assert said["text"] == "6/36"
    assert (said["done"], said["computed"], said["eta_seconds"]) == (6, 6, None)
    clock.now = 122  # they began at 112
    job.update(6, 0, 10, 5112.0)
    said = told(lines)
    assert said["text"] == "6/36 (16 computed) | 1.0 a second | about 20 s left"
    assert (said["done"], said["computed"], said["eta_seconds"]) == (6, 16, 20.0)
    clock.now = 132
    job.update(12, 1, 10, 5112.0)
    said = told(lines)
    assert said["text"] == "12/36 (16 computed) | 0.5 a second | about 40 s left | 1 error(s)"
    assert (said["rate"], said["eta_seconds"]) == (0.5, 40.0)


def test_a_batch_that_was_computed_twice_counts_to_the_end_and_not_beyond(clock: Clock) -> None:
    lines: list[str] = []
    job = Progress(lines.append, terminal=True)
    job.start("go", total=10, before=0)
    clock.now = 104
    job.update(4, 0, 4, 5102.0)
    assert lines[-1] == "\r\x1b[K4/10 | 2.0 a second | about 3 s left"
    clock.now = 106
    job.update(9, 0, 14, 5102.0)
    assert lines[-1] == "\r\x1b[K9/10 (10 computed) | 3.5 a second | about 0 s left"


def test_only_this_runs_actors_count(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    assert folder.computed() == (0, None)
    for actor, run, since in (("a", folder.run, 8.0), ("b", folder.run, 7.0), ("c", "other", 1.0)):
        record_computed(str(folder.path), run, actor, 3, since)
    record_computed(str(folder.path), folder.run, "a", 5, 8.0)
    assert folder.computed() == (8, 7.0)


def test_what_cannot_be_told_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "computed").write_text("no folder")
    record_computed(str(tmp_path), "run", "a", 1, 1.0)


def test_models_tell_how_far_they_are(
    gallery: Home, photos: Path, local_ray: None, tmp_path: Path
) -> None:
    started = time.time()
    stylize(["oil"], photos, tmp_path, home=gallery, workers=1, size="base")
    folder = JobFolder(tmp_path)
    told = [json.loads(p.read_text()) for p in (folder.path / "computed").glob("*.json")]
    assert [t["run"] for t in told] == [(folder.path / "run").read_text()]
    # Nine photos; what came within a second of its last word was not told.
    assert 1 <= told[0]["outputs"] <= 9
    assert started < told[0]["since"] < time.time()

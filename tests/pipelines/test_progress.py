"""Progress of a corpus job: written and computed outputs, rate and time left."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from factory.core.home import Home
from pipelines import progress, stylize
from pipelines.job_folder import RUN, JobFolder, record_computed
from pipelines.progress import Progress
from tests.pipelines.conftest import state_of


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


def last_event(lines: list[str]) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(lines[-1])
    return event


def test_the_rate_counts_outputs_that_are_computed_but_not_written(clock: Clock) -> None:
    lines: list[str] = []
    job = Progress(lines.append)
    job.start("go", total=36, before=6)
    clock.now = 108
    job.update(6, 0)
    assert len(lines) == 1
    clock.now = 111  # the actors start
    job.update(6, 0)
    event = last_event(lines)
    assert event["text"] == "6/36"
    assert (event["done"], event["computed"], event["eta_seconds"]) == (6, 6, None)
    clock.now = 122  # the first batch began at 112
    job.update(6, 0, 10, 5112.0)
    event = last_event(lines)
    assert event["text"] == "6/36 (16 computed) | 1.0 a second | about 20 s left"
    assert (event["done"], event["computed"], event["eta_seconds"]) == (6, 16, 20.0)
    clock.now = 132
    job.update(12, 1, 10, 5112.0)
    event = last_event(lines)
    assert event["text"] == "12/36 (16 computed) | 0.5 a second | about 40 s left | 1 error(s)"
    assert (event["rate"], event["eta_seconds"]) == (0.5, 40.0)


def test_a_batch_computed_twice_does_not_exceed_the_total(clock: Clock) -> None:
    lines: list[str] = []
    job = Progress(lines.append, terminal=True)
    job.start("go", total=10, before=0)
    clock.now = 104
    job.update(4, 0, 4, 5102.0)
    assert lines[-1] == "\r\x1b[K4/10 | 2.0 a second | about 3 s left"
    clock.now = 106
    job.update(9, 0, 14, 5102.0)
    assert lines[-1] == "\r\x1b[K9/10 (10 computed) | 3.5 a second | about 0 s left"


def test_only_actors_of_this_run_count(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    assert folder.computed() == (0, None)
    for actor, run, since in (("c", "other", 1.0), ("a", folder.run, 8.0), ("b", folder.run, 7.0)):
        folder.place.write(RUN, run.encode())
        record_computed(folder.place.location, run, actor, 3, since)
    record_computed(folder.place.location, folder.run, "a", 5, 8.0)
    # An actor of a run that another one has taken over publishes nothing.
    record_computed(folder.place.location, "other", "d", 3, 1.0)
    assert folder.computed() == (8, 7.0)
    assert "computed/d.json" not in folder.place.list()


def test_a_failed_progress_write_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "computed").write_text("no folder")
    record_computed(str(tmp_path), "run", "a", 1, 1.0)


def test_model_actors_publish_their_progress(
    gallery: Home, photos: Path, local_ray: None, tmp_path: Path
) -> None:
    started = time.time()
    stylize(["oil"], photos, tmp_path, home=gallery, workers=1, size="base")
    state = tmp_path / ".job" / state_of(tmp_path)
    reports = [json.loads(p.read_text()) for p in (state / "computed").glob("*.json")]
    assert [t["run"] for t in reports] == [(state / "run").read_text()]
    # Nine photos; an actor publishes at most once a second.
    assert 1 <= reports[0]["outputs"] <= 9
    assert started < reports[0]["since"] < time.time()

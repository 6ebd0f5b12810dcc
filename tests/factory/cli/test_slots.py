"""Slots that are added to a run while it trains."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from factory.core.home import Home
from factory.reports.style_states import Running, Snapshot
from factory.training.slots import SlotPlan, TrainingJob, run_job
from factory.training.style_worker import OnIteration, StyleTask
from osasis.settings import TrainSettings
from tests.factory.conftest import cli

STYLES = 4
SECONDS = 300


class WaitingWorker:
    """A worker that waits for a file instead of training."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def train(self, task: StyleTask, on_iteration: OnIteration) -> None:
        deadline = time.monotonic() + SECONDS
        while not self.file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        on_iteration(1, 1, {"total": 0.0})


def open_worker(file: Path, base: Path, previews: Path, device: str) -> WaitingWorker:
    return WaitingWorker(file)


class Run:
    """A job of waiting styles, run in a thread on one slot. slots: slot by style."""

    def __init__(self, folder: Path) -> None:
        self.go = folder.parent / "go"
        tasks = [
            StyleTask(f"s{i}", Path(), None, "", TrainSettings(), Path()) for i in range(STYLES)
        ]
        self.job = TrainingJob(
            folder,
            folder / "base",
            folder / "previews",
            tasks,
            open_worker=partial(open_worker, self.go),
        )
        self.slots: dict[str, int] = {}
        self.snapshot: Snapshot = {}
        self.final: Snapshot = {}
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.final = run_job(self.job, SlotPlan(1, cpus=0.1), self._note)

    def _note(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.slots |= {k: s.slot for k, s in snapshot.items() if isinstance(s, Running)}

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert self.thread.is_alive() and time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.slow
def test_slots_are_added_to_a_run_that_trains(tmp_path: Path, local_ray: None) -> None:
    home = Home(tmp_path)
    run = Run(home.jobs / "train-1")
    run.wait_for(lambda: bool(run.slots))
    shown = cli("slots", "show", "latest", "--home", tmp_path, "--json").document
    assert (shown["job"], shown["slots"], len(shown["styles"])) == ("train-1", 1, STYLES)
    added = cli("slots", "add", "latest", "1", "--home", tmp_path, "--json")
    assert (added.code, added.document) == (0, {"job": "train-1", "slots": 2})
    # Each slot holds a style.
    run.wait_for(lambda: run.slots == {"s0": 0, "s1": 1})
    run.go.touch()
    run.thread.join(SECONDS)
    assert len(run.final) == STYLES
    assert {s.state for s in run.final.values()} == {"done"}
    # No style was trained twice.
    assert {s.attempts for s in run.final.values()} == {1}
    # A finished job accepts no more slots.
    ended = cli("slots", "add", "train-1", "1", "--home", tmp_path)
    assert ended.code == 2
    assert "train-1: no job that is training; name one of " in ended.error
    assert cli("slots", "show", "train-1", "--home", tmp_path, "--json").document["slots"] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("add", "train-2", "1"), "unknown job 'train-2' (nearest: train-1)"),
        (("add", "train-1", "0"), "COUNT is 0; it must be a whole number from 1"),
        (("add", "train-1", "1"), "train-1: no job that is training"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    (tmp_path / "jobs" / "train-1").mkdir(parents=True)
    (tmp_path / "jobs" / "train-1" / "result.json").write_text("{}")
    ran = cli("slots", *arguments, "--home", tmp_path)
    assert ran.code == 2
    assert says in ran.error


def test_home_without_jobs(tmp_path: Path) -> None:
    ran = cli("slots", "show", "latest", "--home", tmp_path)
    assert ran.code == 2
    assert ran.error == (
        f"no job in {tmp_path / 'jobs'}; start one with `style-factory train CATALOG`"
    )

"""Bulk training on Ray Train with a killed worker and a killed queue."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import ray
import torch

from factory.reports.style_states import Failed, Running, Snapshot
from factory.training.fingerprint import fingerprint
from factory.training.slots import SlotPlan, TrainingJob, plan_slots, run_job
from factory.training.style_worker import CHECKPOINT, StyleWorker
from tests.factory.conftest import Shop, ray_processes
from tests.tiny import picture

ITERATIONS = 20
FINAL_STATES = {"gone": "failed", "a": "done", "b": "done"}


@dataclass
class Saboteur:
    """An on_progress callback that kills the worker of ``a`` and the queue during ``b``."""

    folder: Path
    snapshots: list[Snapshot] = field(default_factory=list)
    killed: dict[str, int] = field(default_factory=dict)

    def __call__(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)
        for style, what, title in (
            ("a", "worker", "RayTrainWorker"),
            ("b", "queue", "LeaseQueue"),
        ):
            is_running = isinstance(snapshot[style], Running)
            if is_running and (self.folder / style / CHECKPOINT).is_file():
                self.kill(what, title)

    def kill(self, what: str, title: str) -> None:
        if what in self.killed:
            return
        (pid,) = ray_processes(title)
        os.kill(pid, signal.SIGKILL)
        self.killed[what] = pid

    def leases(self, style: str) -> set[tuple[float, int]]:
        """Time and slot of each lease of a style."""
        states = [s[style] for s in self.snapshots]
        return {(s.since, s.slot) for s in states if isinstance(s, Running)}


@dataclass(frozen=True)
class Finished:
    folder: Path
    states: Snapshot
    saboteur: Saboteur


@pytest.fixture(scope="module")
def finished(shop: Shop, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Two styles and a failing one on one slot; the worker dies at `a`, the queue at `b`."""
    folder = tmp_path_factory.mktemp("job")
    tasks = []
    settings = {"iterations": ITERATIONS, "checkpoint_every": 2}
    for i, style in enumerate(("a", "b")):
        image = folder / f"{style}.png"
        picture(100 + i).save(image)
        tasks.append(shop.task(style, image, folder / style, **settings))
    tasks.insert(0, shop.task("gone", folder / "gone.png", folder / "gone"))
    saboteur = Saboteur(folder)
    job = TrainingJob(folder / "job", shop.base, shop.previews, tasks)
    return Finished(folder, run_job(job, SlotPlan(1), saboteur), saboteur)


def test_all_styles_finish_after_worker_and_queue_are_killed(finished: Finished) -> None:
    assert set(finished.saboteur.killed) == {"worker", "queue"}
    states = finished.states
    assert {style: s.state for style, s in states.items()} == FINAL_STATES
    gone = states["gone"]
    assert isinstance(gone, Failed)
    assert gone.reason == f"{finished.folder / 'gone.png'}: no such file"


def test_the_style_of_a_killed_worker_is_leased_again_to_its_slot(finished: Finished) -> None:
    assert len(finished.saboteur.leases("a")) == 2
    # The restarted queue read from its file that the slot holds `b`.
    assert len(finished.saboteur.leases("b")) == 1
    assert {slot for _, slot in finished.saboteur.leases("a")} == {0}


def test_a_resumed_style_equals_an_uninterrupted_one(
    finished: Finished, shop: Shop, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    worker = StyleWorker.open(shop.base, shop.previews, "cpu")
    image = finished.folder / "a.png"
    task = shop.task("a", image, tmp_path / "a", iterations=ITERATIONS)
    worker.train(task, lambda iteration, of, losses: None)
    weights = [f / "a/style/style.safetensors" for f in (finished.folder, tmp_path)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    history = json.loads((finished.folder / "a/result.json").read_text())["history"]
    assert len(history) == ITERATIONS


def test_the_queue_file_has_the_final_states(finished: Finished) -> None:
    states = json.loads((finished.folder / "job" / "queue.json").read_text())
    assert {style: s["state"] for style, s in states.items()} == FINAL_STATES


def test_one_slot_per_cpu_without_gpus(local_ray: None, tmp_path: Path) -> None:
    assert ray.cluster_resources()["CPU"] == 2
    plan = partial(plan_slots, tmp_path)
    assert plan(None, 5) == SlotPlan(2)
    assert plan(None, 1) == SlotPlan(1)
    assert plan(3, 5) == SlotPlan(3)
    assert plan(3, 0) == SlotPlan(1)
    assert (SlotPlan(1).device, SlotPlan(2, gpus=0.5).device) == ("cpu", "cuda")


def test_fingerprint_depends_on_images_base_and_settings() -> None:
    same = (b"image", None, "base", {"iterations": 2, "seed": 0})
    others = [
        (b"imagf", None, "base", {"iterations": 2, "seed": 0}),
        (b"image", b"", "base2", {"iterations": 2, "seed": 0}),
        (b"image", b"photo", "base", {"iterations": 2, "seed": 0}),
        (b"image", None, "base", {"iterations": 3, "seed": 0}),
    ]
    prints = [fingerprint(*arguments) for arguments in (same, *others)]
    assert len(set(prints)) == 5
    assert all(len(p) == 16 for p in prints)
    assert fingerprint(*same[:3], {"seed": 0, "iterations": 2}) == prints[0]

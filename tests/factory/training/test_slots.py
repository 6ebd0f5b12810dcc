"""Bulk training on a real Ray Train: what a killed worker and a killed queue cost."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import ray
import torch

from factory.training.fingerprint import fingerprint
from factory.training.slots import JobResult, SlotPlan, Snapshot, TrainingJob, plan_slots, run_job
from factory.training.style_worker import CHECKPOINT, StyleWorker
from tests.factory.conftest import Shop, ray_processes
from tests.tiny import picture

ITERATIONS = 20


ENDS = {"gone": "failed", "a": "done", "b": "done"}


def ends(states: Snapshot) -> dict[str, str]:
    return {style: state["state"] for style, state in states.items()}


@dataclass
class Saboteur:
    """Watches a job as its progress does, and kills with SIGKILL what it depends on."""

    folder: Path
    snapshots: list[Snapshot] = field(default_factory=list)
    killed: dict[str, int] = field(default_factory=dict)

    def __call__(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)
        a, b = snapshot["a"], snapshot["b"]
        if a["state"] == "running" and (self.folder / "a" / CHECKPOINT).is_file():
            self.kill("worker", "RayTrainWorker")
        if b["state"] == "running" and (self.folder / "b" / CHECKPOINT).is_file():
            self.kill("queue", "LeaseQueue")

    def kill(self, what: str, title: str) -> None:
        if what in self.killed:
            return
        (pid,) = ray_processes(title)
        os.kill(pid, signal.SIGKILL)
        self.killed[what] = pid

    def leases(self, style: str) -> list[float]:
        """When the style was leased, each lease once."""
        seen = [s[style]["since"] for s in self.snapshots if s[style]["state"] == "running"]
        return sorted(set(seen))


@dataclass(frozen=True)
class Finished:
    folder: Path
    result: JobResult
    saboteur: Saboteur


@pytest.fixture(scope="module")
def finished(shop: Shop, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Two styles and one that fails, on one slot; the worker dies on `a`, the queue on `b`."""
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


def test_every_style_is_done_although_worker_and_queue_died(finished: Finished) -> None:
    assert set(finished.saboteur.killed) == {"worker", "queue"}
    states = finished.result.states
    assert ends(states) == ENDS
    assert states["gone"]["reason"] == f"{finished.folder / 'gone.png'}: no such file"
    assert finished.result.seconds > 0


def test_a_killed_workers_style_is_leased_again_to_its_slot(finished: Finished) -> None:
    assert len(finished.saboteur.leases("a")) == 2
    # `b` was never taken from the slot: the queue came back knowing who held it.
    assert len(finished.saboteur.leases("b")) == 1
    slots = {s["a"]["slot"] for s in finished.saboteur.snapshots if s["a"]["state"] == "running"}
    assert slots == {0}


def test_styles_are_the_same_as_without_any_death(
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


def test_the_queues_file_says_how_it_ended(finished: Finished) -> None:
    states = json.loads((finished.folder / "job" / "queue.json").read_text())
    assert ends(states) == ENDS


def test_slots_are_cpus_where_there_is_no_gpu(local_ray: None) -> None:
    assert ray.cluster_resources()["CPU"] == 2
    assert plan_slots(None, 5) == SlotPlan(2)
    assert plan_slots(None, 1) == SlotPlan(1)
    assert plan_slots(3, 5) == SlotPlan(3)
    assert plan_slots(3, 0) == SlotPlan(1)
    assert (SlotPlan(1).device, SlotPlan(2, gpus=0.5).device) == ("cpu", "cuda")


def test_fingerprints_tell_everything_that_matters_apart() -> None:
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
    # How often a checkpoint is written changes no result.
    assert fingerprint(*same[:3], {**same[3], "checkpoint_every": 5}) == prints[0]

"""Bulk training: a catalog's styles on Ray Train slots that drain a lease queue."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from factory.core.failures import DIED, MEMORY, describe_failure, failure_kind
from factory.training.lease_queue import ASK_AGAIN, DONE, FAILED, RETRIES, RETRY_ON, LeaseQueue
from factory.training.workbench import OnIteration, StyleTask, Workbench
from osasis.errors import UserError
from osasis.storage import write_json

POLL_SECONDS = 0.5
# How long a run waits for its slots to end when all styles are settled.
JOIN_SECONDS = 15.0
# In a job's folder while it trains: how many slots it is to have.
SLOTS = "slots.json"
ENDED = "its slot ended early"

Snapshot = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class SlotPlan:
    """The slots of a run: how many, and what each takes of the cluster."""

    count: int
    cpus: float = 1.0
    gpus: float = 0.0

    @property
    def device(self) -> str:
        return "cuda" if self.gpus > 0 else "cpu"


class Bench(Protocol):
    """What a slot does with a style: ``Workbench`` trains it."""

    def train(self, task: StyleTask, on_iteration: OnIteration) -> None: ...


# Makes a slot's bench of base folder, preview photos and device.
OpenBench = Callable[[Path, Path, str], Bench]


@dataclass(frozen=True)
class TrainingJob:
    """Everything that the slots of one run need, as paths on storage that they share."""

    folder: Path
    base: Path
    previews: Path
    tasks: list[StyleTask]
    retries: int = RETRIES
    retry_on: tuple[str, ...] = RETRY_ON
    open_bench: OpenBench = Workbench.open


@dataclass
class JobResult:
    """States by style at the end, and seconds from start to end."""

    states: Snapshot = field(default_factory=dict)
    seconds: float = 0.0


def plan_slots(requested: int | None, waiting: int, gpus_per_slot: float | None = None) -> SlotPlan:
    """One slot a GPU, or a CPU where there is none; never more than there are styles.

    gpus_per_slot: what each slot takes, such as 0.25; None shares the GPUs among the slots.
    Raises UserError where GPUs are asked for and there are none.
    """
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    if gpus_per_slot is not None:
        if gpus_per_slot <= 0 or (gpus_per_slot > 1 and gpus_per_slot % 1):
            raise UserError(
                f"--gpus-per-slot is {gpus_per_slot:g}; give a share such as 0.5, or whole GPUs"
            )
        if gpus < gpus_per_slot:
            raise UserError(
                f"--gpus-per-slot is {gpus_per_slot:g}, but the cluster has {gpus} GPU(s); "
                "leave it out to train on CPUs"
            )
        each = int(1 / gpus_per_slot) * gpus if gpus_per_slot <= 1 else int(gpus / gpus_per_slot)
        return SlotPlan(max(1, min(requested or each, waiting)), gpus=gpus_per_slot)
    have = gpus or max(1, int(resources.get("CPU", 1)))
    count = max(1, min(requested or have, waiting))
    if gpus:
        # Whole slots a GPU: 3 slots on 2 GPUs take halves, so that all of them fit.
        return SlotPlan(count, gpus=1 / -(-count // gpus))
    return SlotPlan(count)


def add_slots(job: Path, count: int) -> int:
    """Ask the run of a job folder for more slots; returns how many it is to have.

    The run starts them where the cluster has room, now or when a node joins.
    """
    path = job / SLOTS
    if not path.is_file():
        raise UserError(f"{job}: no job that is training; name one of {job.parent}")
    wanted = int(json.loads(path.read_text())["slots"]) + count
    write_json(path, {"slots": wanted})
    return wanted


def run_job(
    job: TrainingJob, slots: SlotPlan, on_progress: Callable[[Snapshot], None]
) -> JobResult:
    """Train every task of a job; returns when every style is done or given up.

    A failed style is in the result with its reason; the others go on.
    """
    started = time.perf_counter()
    queue = _start_queue(job)
    crew = _Crew(job, slots, queue)
    write_json(job.folder / SLOTS, {"slots": slots.count})
    crew.grow_to(slots.count)
    states: Snapshot = {}
    while not _settled(states):
        time.sleep(POLL_SECONDS)
        dead = [n["NodeID"] for n in ray.nodes() if not n["Alive"]]
        if dead:
            ray.get(queue.release.remote(dead))
        crew.look_after()
        crew.grow_to(int(json.loads((job.folder / SLOTS).read_text())["slots"]))
        states = ray.get(queue.snapshot.remote())
        if not crew.alive and not _settled(states):
            for state in (s for s in states.values() if s["state"] not in (DONE, FAILED)):
                reason = (crew.errors + ray.get(queue.broken_slots.remote()) + [ENDED])[0]
                state |= {"state": FAILED, "reason": reason, "kind": DIED}
        on_progress(states)
    (job.folder / SLOTS).unlink(missing_ok=True)
    crew.join()
    return JobResult(states, time.perf_counter() - started)


def _settled(states: Snapshot) -> bool:
    return bool(states) and all(s["state"] in (DONE, FAILED) for s in states.values())


def _start_queue(job: TrainingJob) -> Any:
    # A queue that dies starts again from its file; calls that it did not answer are repeated.
    # It lives beside the driver: another node may be the one that is lost.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(LeaseQueue).options(
        num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here
    )
    ids = [t.id for t in job.tasks]
    return actor.remote(job.folder / "queue.json", ids, job.retries, job.retry_on)


class _Crew:
    """The slots of a run, a thread each.

    Threads of this process: a process a slot would import everything once more. Daemons, so
    that an interrupted driver ends, and one whose slot waits for room that never comes.
    """

    def __init__(self, job: TrainingJob, slots: SlotPlan, queue: Any) -> None:
        self.job, self.slots, self.queue = job, slots, queue
        self.threads: dict[int, threading.Thread] = {}
        self.started = 0
        self.errors: list[str] = []

    def grow_to(self, count: int) -> None:
        while self.started < count:
            slot = self.started
            self.threads[slot] = threading.Thread(target=self._run, args=(slot,), daemon=True)
            self.threads[slot].start()
            self.started += 1

    def _run(self, slot: int) -> None:
        config = _slot_config(self.job, slot, self.slots)
        try:
            _slot_trainer(slot, self.slots, config, self.queue).fit()
        except Exception as e:
            self.errors.append(describe_failure(e))

    def look_after(self) -> None:
        """Take back what slots held that have ended."""
        for slot in [s for s, t in self.threads.items() if not t.is_alive()]:
            del self.threads[slot]
            ray.get(self.queue.release.remote([], slot))

    @property
    def alive(self) -> bool:
        return bool(self.threads)

    def join(self) -> None:
        deadline = time.monotonic() + JOIN_SECONDS
        for thread in self.threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))


def _slot_config(job: TrainingJob, slot: int, slots: SlotPlan) -> dict[str, Any]:
    return {
        "slot": slot,
        "device": slots.device,
        "threads": max(1, int(slots.cpus)),
        "base": str(job.base),
        "previews": str(job.previews),
        "tasks": {t.id: t.to_dict() for t in job.tasks},
        "open_bench": job.open_bench,
    }


def _slot_trainer(slot: int, slots: SlotPlan, config: dict[str, Any], queue: Any) -> TorchTrainer:
    """One slot: a single-worker TorchTrainer, restarted by Ray Train where its worker dies."""
    resources = {"CPU": slots.cpus} | ({"GPU": slots.gpus} if slots.gpus else {})
    return TorchTrainer(
        partial(drain_queue, {**config, "queue": queue}),
        # The only worker of its group exchanges no tensors; gloo needs no GPU.
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(
            num_workers=1, use_gpu=slots.gpus > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=f"slot-{slot}-{int(time.time() * 1000)}",
            storage_path=str(Path(config["previews"]).parent / "ray-train"),
            # The queue gives up styles, and slots that never get as far as a style.
            failure_config=FailureConfig(max_failures=-1),
        ),
    )


def drain_queue(config: dict[str, Any]) -> None:
    """The training loop of a slot's worker."""
    import torch

    torch.set_num_threads(config["threads"])
    queue, slot = config["queue"], config["slot"]
    if not ray.get(queue.hello.remote(slot)):
        return
    device = config["device"] if torch.cuda.is_available() else "cpu"
    try:
        bench = config["open_bench"](Path(config["base"]), Path(config["previews"]), device)
    except Exception as e:  # a restart would find the same
        ray.get(queue.broken.remote(slot, describe_failure(e)))
        return
    node = ray.get_runtime_context().get_node_id()
    while (style := ray.get(queue.lease.remote(slot, node))) is not None:
        if style == ASK_AGAIN:
            time.sleep(POLL_SECONDS)
            continue
        task = StyleTask(**config["tasks"][style])
        started = time.perf_counter()

        def on_iteration(
            iteration: int, of: int, losses: dict[str, float], style: str = style
        ) -> None:
            queue.progress.remote(style, iteration, of, losses, slot)

        try:
            bench.train(task, on_iteration)
        except Exception as e:  # whatever is wrong with one style, the others go on
            kind = failure_kind(e)
            ray.get(queue.failed.remote(style, describe_failure(e), kind, slot))
            if kind == MEMORY and torch.cuda.is_available():
                torch.cuda.empty_cache()
        else:
            ray.get(queue.done.remote(style, time.perf_counter() - started))

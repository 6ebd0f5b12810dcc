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
from factory.training.style_worker import OnIteration, StyleTask, StyleWorker
from osasis.errors import UserError
from osasis.storage import write_json

POLL_SECONDS = 0.5
# How long a run waits for its slots to end after the last style is done or failed.
JOIN_SECONDS = 15.0
# File in the folder of a running job with the wanted number of slots.
SLOTS = "slots.json"
ENDED = "its slot ended early"

Snapshot = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class SlotPlan:
    """Number of slots of a run, and the CPUs and GPUs that each takes."""

    count: int
    cpus: float = 1.0
    gpus: float = 0.0

    @property
    def device(self) -> str:
        return "cuda" if self.gpus > 0 else "cpu"


class SlotWorker(Protocol):
    """Trains the styles that a slot leases; the product's is ``StyleWorker``."""

    def train(self, task: StyleTask, on_iteration: OnIteration) -> None: ...


# Opens a slot's worker from base folder, file of preview photos, and device.
OpenWorker = Callable[[Path, Path, str], SlotWorker]


@dataclass(frozen=True)
class TrainingJob:
    """The input of all slots of one run; paths are on storage that every node reads."""

    folder: Path
    base: Path
    previews: Path
    tasks: list[StyleTask]
    retries: int = RETRIES
    retry_on: tuple[str, ...] = RETRY_ON
    open_worker: OpenWorker = StyleWorker.open


@dataclass
class JobResult:
    """States by style at the end, and seconds from start to end."""

    states: Snapshot = field(default_factory=dict)
    seconds: float = 0.0


def plan_slots(requested: int | None, waiting: int, gpus_per_slot: float | None = None) -> SlotPlan:
    """One slot per GPU, or per CPU without GPUs; at most one per waiting style.

    requested: number of slots; None chooses it. gpus_per_slot: GPUs of each slot, such as 0.25;
    None shares the GPUs among the slots. Raises UserError where the cluster lacks the GPUs.
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
    """Ask the run of a job folder for ``count`` more slots; returns the new number.

    Slots start when the cluster has free resources. Raises UserError where no run trains there.
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
    """Train every task of a job; returns when every style is done or failed.

    on_progress: called with all states about twice a second. A failed style keeps its reason in
    the result and does not stop the others.
    """
    started = time.perf_counter()
    queue = _start_queue(job)
    pool = SlotPool(job, slots, queue)
    write_json(job.folder / SLOTS, {"slots": slots.count})
    pool.grow_to(slots.count)
    states: Snapshot = {}
    while not _settled(states):
        time.sleep(POLL_SECONDS)
        dead = [n["NodeID"] for n in ray.nodes() if not n["Alive"]]
        if dead:
            ray.get(queue.release.remote(dead))
        pool.release_ended_slots()
        pool.grow_to(int(json.loads((job.folder / SLOTS).read_text())["slots"]))
        states = ray.get(queue.snapshot.remote())
        if not pool.alive and not _settled(states):
            for state in (s for s in states.values() if s["state"] not in (DONE, FAILED)):
                reason = (pool.errors + ray.get(queue.worker_errors.remote()) + [ENDED])[0]
                state |= {"state": FAILED, "reason": reason, "kind": DIED}
        on_progress(states)
    (job.folder / SLOTS).unlink(missing_ok=True)
    pool.join()
    return JobResult(states, time.perf_counter() - started)


def _settled(states: Snapshot) -> bool:
    return bool(states) and all(s["state"] in (DONE, FAILED) for s in states.values())


def _start_queue(job: TrainingJob) -> Any:
    # Ray restarts a dead queue, which reads its file again, and repeats unanswered calls. The
    # queue runs on the driver's node, because the loss of any other node must not end it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(LeaseQueue).options(
        num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here
    )
    ids = [t.id for t in job.tasks]
    return actor.remote(job.folder / "queue.json", ids, job.retries, job.retry_on)


class SlotPool:
    """The slots of a run: one thread of the driver runs one slot's trainer.

    A process per slot would need the memory of another import of Ray Train and torch. The threads
    are daemons, so that the driver can end while a slot still runs or waits for resources.
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

    def release_ended_slots(self) -> None:
        """Return the leases of slots whose thread has ended."""
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
        "open_worker": job.open_worker,
    }


def _slot_trainer(slot: int, slots: SlotPlan, config: dict[str, Any], queue: Any) -> TorchTrainer:
    """A single-worker TorchTrainer, which Ray Train restarts when its worker dies."""
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
            # The lease queue limits the attempts of a style and the starts of a slot.
            failure_config=FailureConfig(max_failures=-1),
        ),
    )


def drain_queue(config: dict[str, Any]) -> None:
    """The training loop of a slot's worker."""
    import torch

    torch.set_num_threads(config["threads"])
    queue, slot = config["queue"], config["slot"]
    if not ray.get(queue.worker_started.remote(slot)):
        return
    device = config["device"] if torch.cuda.is_available() else "cpu"
    try:
        worker = config["open_worker"](Path(config["base"]), Path(config["previews"]), device)
    except Exception as e:  # a restart would find the same
        ray.get(queue.worker_failed.remote(slot, describe_failure(e)))
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
            worker.train(task, on_iteration)
        except Exception as e:  # whatever is wrong with one style, the others go on
            kind = failure_kind(e)
            ray.get(queue.failed.remote(style, describe_failure(e), kind, slot))
            if kind == MEMORY and torch.cuda.is_available():
                torch.cuda.empty_cache()
        else:
            ray.get(queue.done.remote(style, time.perf_counter() - started))

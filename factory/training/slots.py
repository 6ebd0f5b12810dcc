"""Bulk training: Ray Train slots that train the styles of a lease queue."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from factory.core.disk import find_refusal
from factory.core.failures import (
    DIED,
    MEMORY,
    STOPPED,
    StoppedError,
    describe_failure,
    failure_kind,
)
from factory.core.gpus import fair_share, workers_on
from factory.core.machine import cpu_workers
from factory.core.ray_cluster import offered_resources
from factory.core.stores import Location, local_folder, open_store
from factory.core.uris import file_system, is_uri
from factory.reports.style_states import Done, Failed, Snapshot, Waiting
from factory.training.lease_queue import ASK_AGAIN, RETRIES, RETRY_ON, LeaseQueue
from factory.training.style_worker import OnIteration, StyleTask, StyleWorker
from osasis.errors import UserError
from osasis.storage import DiskFullError, json_bytes

POLL_SECONDS = 0.5
# A slot's worker holds the base, a trainable copy, its optimiser state and activations.
MODEL_COPIES = 8
# Seconds that a run waits for its slots to end after the last style is done or failed.
JOIN_SECONDS = 15.0
# Seconds that an interrupted run waits for its slots to save their styles.
STOP_SECONDS = 10.0
# File in the folder of a running job that holds the requested number of slots.
SLOTS = "slots.json"
ENDED = "its slot ended early"


@dataclass(frozen=True)
class SlotPlan:
    """Number of slots of a run, and CPUs and GPUs per slot."""

    count: int
    cpus: float = 1.0
    gpus: float = 0.0

    @property
    def device(self) -> str:
        return "cuda" if self.gpus > 0 else "cpu"


class SlotWorker(Protocol):
    """Trains the styles that a slot leases; ``StyleWorker`` implements it."""

    def train(self, task: StyleTask, on_iteration: OnIteration) -> None: ...


# Opens a slot's worker: (base, file of preview photos, device) -> worker.
OpenWorker = Callable[[Location, Location, str], SlotWorker]


@dataclass(frozen=True)
class TrainingJob:
    """Input of all slots of one run. folder, base and previews are paths or URIs on storage that
    all nodes share."""

    folder: Location
    base: Location
    previews: Location
    tasks: list[StyleTask]
    retries: int = RETRIES
    retry_on: tuple[str, ...] = RETRY_ON
    open_worker: OpenWorker = StyleWorker.open


def plan_slots(
    base: Path, requested: int | None, waiting: int, gpus_per_slot: float | None = None
) -> SlotPlan:
    """One slot per GPU, or per CPU without GPUs; at most one per waiting style.

    base: folder of the base; without GPUs, at most as many slots as fit into memory. requested:
    number of slots; None chooses it. gpus_per_slot: GPUs of each slot, such as 0.25; None shares
    the GPUs among the slots. Raises UserError if the cluster has too few GPUs.
    """
    resources = offered_resources()
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
        most = workers_on(gpus, gpus_per_slot)
        return SlotPlan(max(1, min(requested or most, waiting)), gpus=gpus_per_slot)
    most = gpus or cpu_workers(resources, base, MODEL_COPIES)
    count = max(1, min(requested or most, waiting))
    return SlotPlan(count, gpus=fair_share(gpus, count) if gpus else 0.0)


def add_slots(job: Location, count: int) -> int:
    """Ask the run of a job folder for ``count`` more slots; returns the new number of slots.

    job: path or URI. Slots start when the cluster has free resources. Raises UserError if the run
    is not training.
    """
    slots = requested_slots(job)
    if slots is None:
        parent = str(job).rpartition("/")[0]
        raise UserError(f"{job}: no job that is training; name one of {parent}")
    _request_slots(job, slots + count)
    return slots + count


def requested_slots(job: Location) -> int | None:
    """The number of slots that a run is asked to have; None if the run is not training."""
    try:
        return int(json.loads(open_store(job).read(SLOTS))["slots"])
    except FileNotFoundError:
        return None


def _request_slots(job: Location, slots: int) -> None:
    open_store(job).write(SLOTS, json_bytes({"slots": slots}))


def run_job(job: TrainingJob, slots: SlotPlan, on_progress: Callable[[Snapshot], None]) -> Snapshot:
    """Train every task of a job until every style is done or failed; returns the final states.

    on_progress: called with all states about twice a second. A failed style does not stop the
    others; a full disk stops all of them. Raises DiskFullError.
    """
    queue = _start_queue(job)
    pool = SlotPool(job, slots, queue)
    _request_slots(job.folder, slots.count)
    pool.grow_to(slots.count)
    try:
        return _watch(job, queue, pool, on_progress)
    except KeyboardInterrupt:  # Ctrl-C or SIGTERM
        with contextlib.suppress(Exception):  # the cluster may be gone
            ray.get(queue.stop.remote(), timeout=STOP_SECONDS)
            pool.join(STOP_SECONDS)
        raise
    finally:
        open_store(job.folder).delete([SLOTS])


def _watch(
    job: TrainingJob, queue: Any, pool: SlotPool, on_progress: Callable[[Snapshot], None]
) -> Snapshot:
    states: Snapshot = {}
    looked, every = time.monotonic(), open_store(job.folder).look_seconds
    while not _is_finished(states):
        time.sleep(POLL_SECONDS)
        dead = [n["NodeID"] for n in ray.nodes() if not n["Alive"]]
        if dead:
            ray.get(queue.release.remote(dead))
        pool.release_ended_slots()
        if full := pool.disk_full or ray.get(queue.disk_full.remote()):
            raise DiskFullError(errno.ENOSPC, full)
        if time.monotonic() - looked >= every:
            looked = time.monotonic()
            pool.grow_to(requested_slots(job.folder) or 0)
        states = ray.get(queue.snapshot.remote())
        if not pool.threads and not _is_finished(states):
            errors = pool.errors + ray.get(queue.worker_errors.remote())
            states = _fail_unfinished(states, errors[0] if errors else ENDED)
        on_progress(states)
    pool.join()
    return states


def _is_finished(states: Snapshot) -> bool:
    return bool(states) and all(isinstance(s, (Done, Failed)) for s in states.values())


def _fail_unfinished(states: Snapshot, reason: str) -> Snapshot:
    """The states with every waiting or running style failed for a reason."""
    return {
        style: s
        if isinstance(s, (Done, Failed))
        else Failed(reason, DIED, s.attempts, s.before if isinstance(s, Waiting) else None)
        for style, s in states.items()
    }


def _start_queue(job: TrainingJob) -> Any:
    # Ray restarts a dead queue, which reads its file again, and retries unanswered calls. The
    # queue runs on the driver's node, so that it survives the loss of any other node.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(LeaseQueue).options(
        num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here
    )
    ids = [t.id for t in job.tasks]
    return actor.remote(job.folder, ids, job.retries, job.retry_on)


class SlotPool:
    """The slots of a run: one thread of the driver runs one slot's trainer.

    Threads instead of processes save one import of Ray Train and torch per slot. They are daemons,
    so that the driver can exit while a slot still runs or waits for resources.
    """

    def __init__(self, job: TrainingJob, slots: SlotPlan, queue: Any) -> None:
        self.job, self.slots, self.queue = job, slots, queue
        self.threads: dict[int, threading.Thread] = {}
        self.started = 0
        self.errors: list[str] = []
        self.disk_full = ""

    def grow_to(self, count: int) -> None:
        while self.started < count:
            slot = self.started
            self.threads[slot] = threading.Thread(target=self._run, args=(slot,), daemon=True)
            self.threads[slot].start()
            self.started += 1

    def _run(self, slot: int) -> None:
        try:
            _slot_trainer(self.job, self.slots, slot, self.queue).fit()
        except Exception as e:
            if (full := find_refusal(e, local_folder(open_store(self.job.folder)))) is not None:
                self.disk_full = str(full)
            self.errors.append(describe_failure(e))

    def release_ended_slots(self) -> None:
        """Return the leases of slots whose thread has ended."""
        for slot in [s for s, t in self.threads.items() if not t.is_alive()]:
            del self.threads[slot]
            ray.get(self.queue.release.remote([], slot))

    def join(self, seconds: float = JOIN_SECONDS) -> None:
        """Wait for the slots to end, at most this long."""
        deadline = time.monotonic() + seconds
        for thread in self.threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))


def _slot_trainer(job: TrainingJob, slots: SlotPlan, slot: int, queue: Any) -> TorchTrainer:
    """A single-worker TorchTrainer, which Ray Train restarts when its worker dies."""
    resources = {"CPU": slots.cpus} | ({"GPU": slots.gpus} if slots.gpus else {})
    return TorchTrainer(
        partial(drain_queue, job, slots, slot, queue),
        # A group of one worker exchanges no tensors; gloo needs no GPU.
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(
            num_workers=1, use_gpu=slots.gpus > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=f"slot-{slot}-{int(time.time() * 1000)}",
            **_storage(f"{job.folder}/ray-train"),
            # The lease queue limits the attempts of a style and the starts of a slot.
            failure_config=FailureConfig(max_failures=-1),
        ),
    )


def _storage(location: str) -> dict[str, Any]:
    """Where Ray Train keeps its files, as arguments of RunConfig."""
    if not is_uri(location):
        return {"storage_path": location}
    system, path = file_system(location)
    return {"storage_path": path, "storage_filesystem": system}


def drain_queue(job: TrainingJob, slots: SlotPlan, slot: int, queue: Any) -> None:
    """Training loop of a slot's worker: leases and trains styles until none is left."""
    import torch

    torch.set_num_threads(max(1, int(slots.cpus)))
    if not ray.get(queue.worker_started.remote(slot)):
        return
    try:
        worker = job.open_worker(job.base, job.previews, slots.device)
    except Exception as e:  # a restarted worker would fail in the same way
        ray.get(queue.worker_failed.remote(slot, describe_failure(e)))
        return
    tasks = {t.id: t for t in job.tasks}
    node = ray.get_runtime_context().get_node_id()
    while (style := ray.get(queue.lease.remote(slot, node))) is not None:
        if style == ASK_AGAIN:
            time.sleep(POLL_SECONDS)
            continue
        started = time.perf_counter()
        progress = SlotProgress(queue, style, slot)
        failure = try_train(worker, tasks[style], progress)
        if failure is None:
            ray.get(queue.done.remote(style, time.perf_counter() - started))
            continue
        reason, kind = failure
        if kind == STOPPED:
            ray.get(queue.give_back.remote(style, slot))
            if progress.node_ends:  # Ray Train starts the slot again on another node
                raise StoppedError("the slot's node is being drained")
            return
        if kind == MEMORY:
            free_memory()
        ray.get(queue.failed.remote(style, reason, kind, slot))


class SlotProgress:
    """Reports the iterations of a style to the queue, and learns from its answers when to stop.

    node_ends: whether the reason is that Ray drains this node, such as a spot machine.
    """

    def __init__(self, queue: Any, style: str, slot: int) -> None:
        self.queue, self.style, self.slot = queue, style, slot
        self.node_ends = False
        self._answer: Any = None

    def __call__(self, iteration: int, of: int, losses: dict[str, float]) -> bool:
        before, self._answer = (
            self._answer,
            self.queue.progress.remote(self.style, iteration, of, losses, self.slot),
        )
        self.node_ends = ray.train.get_preemption_info() is not None
        # The newest answer is not waited for.
        return self.node_ends or (before is not None and bool(ray.get(before)))


def try_train(
    worker: SlotWorker, task: StyleTask, on_iteration: OnIteration
) -> tuple[str, str] | None:
    """Train one style; returns the reason and kind of a failure.

    When this function has returned, nothing refers to the exception, whose traceback holds the
    tensors of the training.
    """
    try:
        worker.train(task, on_iteration)
    except Exception as e:  # an error of one style does not stop the others
        return describe_failure(e), failure_kind(e)
    return None


def free_memory() -> None:
    """Return the memory of unused tensors to the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

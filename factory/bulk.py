"""Bulk training: a catalog's styles on Ray Train slots that drain a lease queue."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from factory.queue import DONE, FAILED, MAX_ATTEMPTS, LeaseQueue
from factory.work import StyleTask, Workbench, describe_failure

# A report blocks for a poll of the controller: a tenth of a second instead of two.
TRAIN_ENV = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1"}
POLL_SECONDS = 0.5

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


@dataclass(frozen=True)
class TrainingJob:
    """Everything that the slots of one run need, as paths on storage that they share."""

    folder: Path
    base: Path
    previews: Path
    tasks: list[StyleTask]


@dataclass
class JobResult:
    """States by style at the end, and seconds from start to end."""

    states: Snapshot = field(default_factory=dict)
    seconds: float = 0.0


def start_ray(slots: int | None = None) -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start a local one."""
    if ray.is_initialized():
        return
    for name, value in {"RAY_TRAIN_V2_ENABLED": "1", **TRAIN_ENV}.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {} if address else {"object_store_memory": 200_000_000}
    if slots is not None and not address:
        local["num_cpus"] = max(slots, os.cpu_count() or 1)
    ray.init(
        address=address,
        include_dashboard=False if not address else None,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"env_vars": TRAIN_ENV},
        **local,
    )


def plan_slots(requested: int | None, waiting: int) -> SlotPlan:
    """One slot a GPU, or a CPU where there is none; never more than there are styles."""
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    have = gpus or max(1, int(resources.get("CPU", 1)))
    count = max(1, min(requested or have, waiting))
    if gpus:
        # Whole slots a GPU: 3 slots on 2 GPUs take halves, so that all of them fit.
        return SlotPlan(count, gpus=1 / -(-count // gpus))
    return SlotPlan(count)


def run_job(
    job: TrainingJob, slots: SlotPlan, on_progress: Callable[[Snapshot], None]
) -> JobResult:
    """Train every task of a job; returns when the queue is drained.

    A failed style is in the result with its reason; the others go on.
    """
    started = time.perf_counter()
    ids = [t.id for t in job.tasks]
    # A queue that dies starts again from its file; calls that it did not answer are repeated.
    actor = ray.remote(LeaseQueue).options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
    queue: Any = actor.remote(job.folder / "queue.json", ids)
    slot_errors: list[str] = []

    def run_slot(slot: int) -> None:
        try:
            _slot_trainer(slot, slots, _slot_config(job, slot, slots), queue).fit()
        except Exception as e:
            slot_errors.append(describe_failure(e))

    # Threads of this process: a process a slot would import everything once more. Daemons, so
    # that an interrupted driver ends.
    threads = [
        threading.Thread(target=run_slot, args=(slot,), daemon=True) for slot in range(slots.count)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(POLL_SECONDS)
        on_progress(ray.get(queue.snapshot.remote()))
    states = ray.get(queue.snapshot.remote())
    for state in states.values():
        if state["state"] not in (DONE, FAILED):
            reason = slot_errors[0] if slot_errors else "its slot ended early"
            state |= {"state": FAILED, "reason": reason}
    on_progress(states)
    return JobResult(states, time.perf_counter() - started)


def _slot_config(job: TrainingJob, slot: int, slots: SlotPlan) -> dict[str, Any]:
    return {
        "slot": slot,
        "device": slots.device,
        "threads": max(1, int(slots.cpus)),
        "base": str(job.base),
        "previews": str(job.previews),
        "tasks": {t.id: t.to_dict() for t in job.tasks},
    }


def _slot_trainer(slot: int, slots: SlotPlan, config: dict[str, Any], queue: Any) -> TorchTrainer:
    """One slot: a single-worker TorchTrainer, restarted by Ray Train where its worker dies."""
    resources = {"CPU": slots.cpus} | ({"GPU": slots.gpus} if slots.gpus else {})
    return TorchTrainer(
        drain_queue,
        train_loop_config={**config, "queue": queue},
        # NCCL needs a GPU of its own for every worker; one worker needs no NCCL.
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(
            num_workers=1, use_gpu=slots.gpus > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=f"slot-{slot}-{int(time.time() * 1000)}",
            storage_path=str(Path(config["previews"]).parent / "ray-train"),
            # Every style may lose its worker a few times; the queue gives a style up before.
            failure_config=FailureConfig(max_failures=MAX_ATTEMPTS * len(config["tasks"]) + 1),
        ),
    )


def drain_queue(config: dict[str, Any]) -> None:
    """The training loop of a slot's worker."""
    import torch

    torch.set_num_threads(config["threads"])
    queue = config["queue"]
    bench = Workbench.open(Path(config["base"]), Path(config["previews"]), config["device"])
    while (style := ray.get(queue.lease.remote(config["slot"]))) is not None:
        task = StyleTask(**config["tasks"][style])
        started = time.perf_counter()

        def on_iteration(iteration: int, of: int, total: float, style: str = style) -> None:
            queue.progress.remote(style, iteration, of, total)

        try:
            bench.train(task, on_iteration)
        except Exception as e:  # whatever is wrong with one style, the others go on
            ray.get(queue.failed.remote(style, describe_failure(e)))
        else:
            ray.get(queue.done.remote(style, time.perf_counter() - started))

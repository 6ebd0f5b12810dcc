"""The stream of a corpus on Ray Data: orders -> squares -> stylized squares -> outputs.

Encoded images travel between the operators. A reader drops the photos that it cannot read and
yields tables of one model batch each; only the last table of an order may be shorter, and Ray Data
joins short tables. The settings below bound the memory in flight, whatever the corpus' size.
"""

from __future__ import annotations

import logging
import math
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from osasis.errors import UserError
from osasis.settings import BATCH_SIZES
from pipelines.job_spec import JobSpec
from pipelines.read_squares import ORDER

# Most forward passes in a batch. Larger batches set a style up less often; smaller ones spread
# more evenly over the actors.
MAX_PASSES = {"cpu": 8, "cuda": 4}
# Share of the model's time that actors may idle at the end for the sake of larger batches.
MAX_IDLE_SHARE = 0.02
# Most batches in an order. Ray Data hands all tables of an order to one actor.
MAX_BATCHES_PER_ORDER = 4
# A large Parquet row group is read by at most this many orders per actor.
READS_PER_ACTOR = 8
# Up to this many batches per actor, an actor queues one batch at a time instead of two; with two,
# the actor that starts first would take all batches.
SMALL_CORPUS_BATCHES = 2
POLL_SECONDS = 1.0
MAX_BLOCK_BYTES = 16 * 1024 * 1024
# CPUs that Ray reserves for a model actor and for a reading or writing task, without and with a
# GPU. Without, an actor uses its core fully and leaves a fraction to the tasks that feed it.
CPUS = {"cpu": (0.8, 0.1), "cuda": (0.0, 0.5)}


@dataclass(frozen=True)
class Workers:
    """How a corpus uses the cluster.

    models: model actors. readers: reading tasks at a time, and writing tasks at a time. gpus: GPUs
    per actor. batch: photos per model batch.
    """

    models: int
    readers: int
    gpus: float
    batch: int

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"


def plan_workers(
    photos: int, workers: int | None, readers: int | None, gpus_per_worker: float | None
) -> Workers:
    """One actor per GPU (or fraction of a GPU), or one per CPU where there is no GPU.

    Raises UserError where the cluster has too few GPUs.
    """
    import ray

    resources = ray.cluster_resources()
    gpus = float(resources.get("GPU", 0))
    cpus = max(1, int(resources.get("CPU", 1)))
    if gpus_per_worker and not gpus:
        raise UserError("--gpus-per-worker: this cluster has no GPU")
    share = gpus_per_worker or (min(1.0, gpus / workers) if gpus and workers else float(gpus > 0))
    room = int(gpus / share + 1e-6) if gpus else cpus
    if workers and workers > room and gpus_per_worker:
        raise UserError(
            f"--workers {workers} of {share:g} GPU each do not fit into {gpus:g} GPU(s); "
            f"at most {room} do"
        )
    device = "cuda" if gpus else "cpu"
    chunk = BATCH_SIZES[device]
    models = max(1, min(workers or room, -(-photos // chunk)))
    batch = chunk * _passes(-(-photos // chunk), models, MAX_PASSES[device])
    return Workers(models, readers or max(1, cpus // 2), share if gpus else 0.0, batch)


def _passes(chunks: int, models: int, most: int) -> int:
    """Most forward passes per batch with which all actors still end at about the same time."""

    def longest(passes: int) -> int:
        """Passes of the busiest actor."""
        return math.ceil(math.ceil(chunks / passes) / models) * passes

    best = min(longest(p) for p in range(1, most + 1))
    return max(p for p in range(1, most + 1) if longest(p) <= best * (1 + MAX_IDLE_SHARE))


def stream(
    orders: list[pa.Table],
    job: JobSpec,
    workers: Workers,
    watch: Callable[[], bool],
) -> None:
    """Run all orders. Returns when their outputs are on disk and recorded.

    watch: called every POLL_SECONDS and at the end; returns False to end the stream early, after
    the batches in flight. Raises the stream's first error.
    """
    failure: list[BaseException] = []

    def consume() -> None:
        try:
            for _ in _dataset(orders, job, workers).iter_batches(batch_size=None):
                pass  # a row only says that its outputs are on disk
        except BaseException as e:
            failure.append(e)

    thread = threading.Thread(target=consume, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        if not watch():
            thread.join()
    watch()
    if failure:
        raise failure[0]


def _dataset(orders: list[pa.Table], job: JobSpec, workers: Workers) -> Any:
    import ray.data

    from pipelines.read_squares import read_squares
    from pipelines.stylize_squares import StylizeSquares
    from pipelines.write_outputs import write_outputs

    # After the import of ray.data, which sets the levels of its loggers.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    small = sum(map(len, orders)) <= SMALL_CORPUS_BATCHES * workers.models * workers.batch
    model_cpus, task_cpus = CPUS[workers.device]
    return (
        _from_orders(orders)
        .map_batches(
            read_squares,
            batch_size=None,
            batch_format="pyarrow",
            fn_kwargs={"job": job},
            compute=ray.data.TaskPoolStrategy(size=workers.readers),
            num_cpus=task_cpus,
        )
        .map_batches(
            StylizeSquares,
            fn_constructor_kwargs={"job": job, "device": workers.device},
            batch_size=workers.batch,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                min_size=workers.models,
                max_size=workers.models,
                max_tasks_in_flight_per_actor=1 if small else 2,
            ),
            num_cpus=model_cpus,
            num_gpus=workers.gpus,
        )
        .map_batches(
            write_outputs,
            batch_size=None,
            batch_format="pyarrow",
            fn_kwargs={"job": job},
            compute=ray.data.TaskPoolStrategy(size=workers.readers),
            num_cpus=task_cpus,
        )
    )


def _from_orders(orders: list[pa.Table]) -> Any:
    """A dataset with settings of its own; the process's settings for other datasets stay."""
    import ray.data

    context = ray.data.DataContext.get_current()
    settings = {"enable_progress_bars": False, "target_max_block_size": MAX_BLOCK_BYTES}
    before = {name: getattr(context, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(context, name, value)
        return ray.data.from_arrow(orders)  # copies the current settings
    finally:
        for name, value in before.items():
            setattr(context, name, value)


def make_orders(
    missing: list[tuple[int, list[int]]], groups: list[tuple[str, int]] | None, workers: Workers
) -> list[pa.Table]:
    """Orders to readers (schema ORDER) for photos with the targets that they lack.

    groups: file and row group of each photo inside Parquet; an order then is one row group, which
    is read in one pass, or a part of a large row group. Photos that lack the same targets stand
    together, so that forward passes are full.
    """
    batches = math.ceil(len(missing) / workers.batch)
    # Larger orders need fewer tasks, but make the actors' ends less even.
    size = workers.batch * min(
        MAX_BATCHES_PER_ORDER, max(1, int(MAX_IDLE_SHARE * batches / workers.models))
    )
    if groups is None:
        ordered = sorted(missing, key=lambda m: (m[1] != missing[0][1], m[1]))
        spans = _split(ordered, size)
    else:
        size = max(size, math.ceil(len(missing) / (workers.models * READS_PER_ACTOR)))
        by_group: dict[tuple[str, int], list[tuple[int, list[int]]]] = {}
        for row in missing:
            by_group.setdefault(groups[row[0]], []).append(row)
        spans = [span for rows in by_group.values() for span in _split(rows, size)]
    return [
        pa.table(
            [
                pa.array([i for i, _ in span], pa.int64()),
                pa.array([t for _, t in span], pa.list_(pa.int32())),
            ],
            schema=ORDER,
        )
        for span in spans
    ]


def _split(rows: list[tuple[int, list[int]]], size: int) -> list[list[tuple[int, list[int]]]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def connect() -> None:
    """Start or join Ray, without its progress bars and notices on the terminal."""
    # One order becomes several batches, so a corpus may have fewer orders than actors.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
    from factory.core.ray_cluster import start_ray

    start_ray(keep_idle=True)

"""The stream: orders -> squares -> stylized squares -> outputs, on Ray Data.

Bytes travel between the operators, never pixels. Readers leave out what failed and hand on full
batches of the model's size; only the last one of an order may be short, and is then joined with
the next order's. What is in flight is bounded by the settings here and not by the corpus.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from osasis.errors import UserError
from osasis.settings import PASS_IMAGES
from pipelines.read_squares import ORDER

# Forward passes a batch, at most: more of them share a style's set-up, fewer spread better.
PASSES = {"cpu": 8, "cuda": 4}
# Of the time that the model must take: what a larger batch may leave actors idle at the end.
IDLE = 0.02
# Photos an order to a reader, in batches, at most. Ray Data hands what a task yields to one actor,
# as one block: an order is an actor's at least.
BATCHES_AN_ORDER = 4
# A row group that holds much of the corpus is read so often an actor.
READS_AN_ACTOR = 8
# Batches an actor up to which each holds one at a time.
FEW = 2
POLL_SECONDS = 1.0
# How soon it is seen that a batch has ended. On the CPU one takes many seconds, and the model wants
# the core that looks; nothing waits for it where an actor has its next batch already.
LOOK_SECONDS = {"few": 0.5, "many": 1.0}
BLOCK_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Workers:
    """How the cluster is shared: model actors, reading and writing tasks at a time."""

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
    """Actors: one a GPU, or as many as fractions of GPUs allow, or one a CPU.

    Raises UserError where the cluster cannot hold them.
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
    chunk = PASS_IMAGES[device]
    models = max(1, min(workers or room, -(-photos // chunk)))
    batch = chunk * _passes(-(-photos // chunk), models, PASSES[device])
    return Workers(models, readers or max(1, cpus // 2), share if gpus else 0.0, batch)


def _passes(chunks: int, models: int, most: int) -> int:
    """Forward passes a batch: as many as still let all actors end at about the same time."""

    def longest(passes: int) -> int:
        """Passes of the actor that has most to do."""
        return math.ceil(math.ceil(chunks / passes) / models) * passes

    best = min(longest(p) for p in range(1, most + 1))
    return max(p for p in range(1, most + 1) if longest(p) <= best * (1 + IDLE))


def stream(
    orders: list[pa.Table],
    job: dict[str, Any],
    workers: Workers,
    watch: Callable[[], bool],
) -> None:
    """Run all orders; returns when their outputs are on disk and recorded.

    watch: called every now and then and at the end; False asks for an early end, after what is in
    flight. Raises what the stream raises.
    """
    from factory.core.ray_cluster import is_own
    from pipelines.ray_data import sparing_the_cpu

    failure: list[BaseException] = []
    # The actor that is there first would take two of few batches, and leave another none.
    few = sum(map(len, orders)) <= FEW * workers.models * workers.batch

    def consume() -> None:
        try:
            with sparing_the_cpu(is_own()) if not workers.gpus else nullcontext() as look_every:
                # Outputs are on disk; of the rows that say so nothing is brought here.
                for _ in _dataset(orders, job, workers, few).iter_internal_ref_bundles():
                    if look_every:  # a batch is done: the actors have begun
                        look_every(LOOK_SECONDS["few" if few else "many"])
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


def _dataset(orders: list[pa.Table], job: dict[str, Any], workers: Workers, few: bool) -> Any:
    import ray.data  # it sets its loggers' levels when it is first imported

    from pipelines.read_squares import read_squares
    from pipelines.stylize_squares import StylizeSquares
    from pipelines.write_outputs import write_outputs

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.target_max_block_size = BLOCK_BYTES
    kept = ray.data.DataContext.get_current()
    # Actors leave a little of each CPU to the tasks that feed them; where there are GPUs the
    # CPUs are the tasks' own.
    model_cpus, task_cpus = (0.0, 0.5) if workers.gpus else (0.8, 0.1)
    ray.data.DataContext._set_current(context)
    try:
        dataset: Any = ray.data.from_arrow(orders)
        dataset = dataset.map_batches(
            read_squares,
            batch_size=None,
            batch_format="pyarrow",
            fn_kwargs={"job": job},
            compute=ray.data.TaskPoolStrategy(size=workers.readers),
            num_cpus=task_cpus,
        )
        dataset = dataset.map_batches(
            StylizeSquares,
            fn_constructor_kwargs={"job": job, "device": workers.device},
            batch_size=workers.batch,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                min_size=workers.models,
                max_size=workers.models,
                max_tasks_in_flight_per_actor=1 if few else 2,
            ),
            num_cpus=model_cpus,
            num_gpus=workers.gpus,
        )
        return dataset.map_batches(
            write_outputs,
            batch_size=None,
            batch_format="pyarrow",
            fn_kwargs={"job": job},
            compute=ray.data.TaskPoolStrategy(size=workers.readers),
            num_cpus=task_cpus * 1.01,  # not the readers' number: equal ones would be fused
        )
    finally:
        ray.data.DataContext._set_current(kept)


def make_orders(
    missing: list[tuple[int, list[int]]], groups: list[tuple[str, int]] | None, workers: Workers
) -> list[pa.Table]:
    """Photos with the targets they lack, as orders to readers (schema ORDER).

    groups: for photos inside Parquet, their file and row group; an order then is one group, which
    is read in one pass, or a part of a large one. Photos with the same targets stand together, so
    that passes are full.
    """
    batches = math.ceil(len(missing) / workers.batch)
    # Larger orders are fewer tasks, but let actors end further apart.
    size = workers.batch * min(BATCHES_AN_ORDER, max(1, int(IDLE * batches / workers.models)))
    if groups is None:
        ordered = sorted(missing, key=lambda m: (m[1] != missing[0][1], m[1]))
        spans = _split(ordered, size)
    else:
        size = max(size, math.ceil(len(missing) / (workers.models * READS_AN_ACTOR)))
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
    """Ray, quiet: its bars and notices would stand between the lines of ours."""
    # An order becomes several batches; that there are fewer orders than actors says nothing.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    from factory.core.ray_cluster import start_ray

    if "RAY_BACKEND_LOG_LEVEL" in os.environ:
        start_ray(keep_idle=True)
        return
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    # Ray's core tells standard error itself, past Python, that it has read this.
    with _no_standard_error():
        start_ray(keep_idle=True)


@contextmanager
def _no_standard_error() -> Iterator[None]:
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)

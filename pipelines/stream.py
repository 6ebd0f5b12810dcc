"""Ray Data pipeline of a corpus: read tasks -> squares -> stylized squares -> outputs.

Images travel encoded between the operators. A read task yields tables of one model batch each; its
last table may be shorter, and Ray Data joins short tables. The settings below bound the memory of
tables in flight, independently of the corpus' size.
"""

from __future__ import annotations

import logging
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from factory.core.disk import find_refusal
from factory.core.failures import find_user_error
from factory.core.machine import cpu_workers
from factory.methods import method_of, read_base_info
from osasis.errors import UserError
from pipelines.job_spec import JobSpec
from pipelines.read_squares import READ_TASK

# Most forward passes in a batch. Large batches switch styles less often; small batches spread more
# evenly over the actors.
MAX_PASSES = {"cpu": 8, "cuda": 4}
# Share of the job's time that an actor may idle at the end so that batches can be larger.
MAX_IDLE_SHARE = 0.02
# Most batches in a read task. Ray Data sends all tables of a task to one actor.
MAX_BATCHES_PER_TASK = 4
# A large Parquet row group is read by at most this many tasks per actor.
READS_PER_ACTOR = 8
# At or below this many batches per actor, an actor queues one batch instead of two; with two, the
# actor that starts first would take all batches.
SMALL_CORPUS_BATCHES = 2
# A model actor holds the base, a style and what a forward pass computes.
MODEL_COPIES = 4
POLL_SECONDS = 1.0
# Seconds that an aborted run waits for its workers. After that they stop by themselves.
LEAVE_SECONDS = 5.0
MAX_BLOCK_BYTES = 16 * 1024 * 1024
# CPUs that Ray reserves for (a model actor, a reading or writing task). On a CPU, the remaining 0.2
# of an actor's core lets the tasks that feed it be scheduled.
CPUS = {"cpu": (0.8, 0.1), "cuda": (0.0, 0.5)}


@dataclass(frozen=True)
class Workers:
    """Worker counts and batch size of a run.

    models: model actors. readers: concurrent reading tasks, and concurrent writing tasks. gpus:
    GPUs per actor. batch: photos per model batch.
    """

    models: int
    readers: int
    gpus: float
    batch: int

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"


def plan_workers(
    photos: int,
    base: Path,
    workers: int | None,
    readers: int | None,
    gpus_per_worker: float | None,
) -> Workers:
    """Plan one actor per GPU (or fraction of a GPU), or one per CPU without GPUs.

    base: folder of the base; without GPUs, as many actors run as fit into the memory. Raises
    UserError if the cluster has too few GPUs.
    """
    from factory.core.ray_cluster import offered_resources

    resources = offered_resources()
    gpus = float(resources.get("GPU", 0))
    if gpus_per_worker and not gpus:
        raise UserError("--gpus-per-worker: this cluster has no GPU")
    share = gpus_per_worker or (min(1.0, gpus / workers) if gpus and workers else float(gpus > 0))
    cpu_capacity = cpu_workers(resources, base, MODEL_COPIES)
    capacity = int(gpus / share + 1e-6) if gpus else cpu_capacity
    if workers and workers > capacity and gpus_per_worker:
        raise UserError(
            f"--workers {workers} of {share:g} GPU each do not fit into {gpus:g} GPU(s); "
            f"at most {capacity} do"
        )
    device = "cuda" if gpus else "cpu"
    chunk = method_of(read_base_info(base)).pass_sizes[device]
    models = max(1, min(workers or capacity, -(-photos // chunk)))
    batch = chunk * _passes(-(-photos // chunk), models, MAX_PASSES[device])
    return Workers(models, readers or max(1, cpu_capacity // 2), share if gpus else 0.0, batch)


def _passes(chunks: int, models: int, most: int) -> int:
    """The most forward passes per batch with which all actors end at about the same time."""

    def longest(passes: int) -> int:
        """Forward passes of the busiest actor, for a number of passes per batch."""
        return math.ceil(math.ceil(chunks / passes) / models) * passes

    best = min(longest(p) for p in range(1, most + 1))
    return max(p for p in range(1, most + 1) if longest(p) <= best * (1 + MAX_IDLE_SHARE))


def run_pipeline(
    tasks: list[pa.Table],
    job: JobSpec,
    workers: Workers,
    poll: Callable[[], bool],
    look_seconds: float = 0.0,
) -> None:
    """Run all read tasks. Returns when their outputs are written and recorded.

    poll: called every POLL_SECONDS (or ``look_seconds``, if longer) and at the end; returns False
    once it has asked the workers to stop, after which only the batches in flight are finished, and
    raises an error to leave at once. Raises the pipeline's error.
    """
    failure: list[BaseException] = []

    def consume() -> None:
        try:
            for _ in _dataset(tasks, job, workers).iter_batches(batch_size=None):
                pass  # outputs are on disk; the batches hold only row numbers
        except BaseException as e:
            failure.append(e)

    thread = threading.Thread(target=consume, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(max(POLL_SECONDS, look_seconds))
            if not poll():
                thread.join()
        poll()
    except Exception:
        thread.join(LEAVE_SECONDS)
        raise
    if failure:
        raise failure[0]


def _dataset(tasks: list[pa.Table], job: JobSpec, workers: Workers) -> Any:
    import ray.data

    from pipelines.read_squares import read_squares
    from pipelines.stylize_squares import StylizeSquares
    from pipelines.write_outputs import write_outputs

    # After the import of ray.data, which sets the levels of its loggers. Errors are raised.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    small = sum(map(len, tasks)) <= SMALL_CORPUS_BATCHES * workers.models * workers.batch
    model_cpus, task_cpus = CPUS[workers.device]
    return (
        from_tasks(tasks)
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


def tables_of(dataset: Any) -> Iterator[pa.Table]:
    """Run a dataset; yields its tables.

    Raises StoreError, DiskFullError or UserError in place of Ray's error about such an error.
    """
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    except Exception as e:
        if (refusal := find_refusal(e)) is not None:
            raise refusal from None
        if (mistake := find_user_error(e)) is not None:
            raise mistake from None
        raise


def from_tasks(tasks: list[pa.Table]) -> Any:
    """A dataset of the tasks, one block each; the process's Ray Data settings are restored."""
    import ray.data

    context = ray.data.DataContext.get_current()
    settings = {"enable_progress_bars": False, "target_max_block_size": MAX_BLOCK_BYTES}
    before = {name: getattr(context, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(context, name, value)
        return ray.data.from_arrow(tasks)  # copies the current settings
    finally:
        for name, value in before.items():
            setattr(context, name, value)


def make_read_tasks(
    missing: list[tuple[int, list[int]]], groups: list[tuple[str, int]] | None, workers: Workers
) -> list[pa.Table]:
    """Split (photo, missing targets) rows into read tasks (schema READ_TASK).

    groups: file and row group of each photo of a Parquet input; a task is then one row group, or a
    part of a large row group. Otherwise, rows that lack the same targets are sorted together, so
    that forward passes are full.
    """
    batches = math.ceil(len(missing) / workers.batch)
    # Larger tasks cost less overhead, but the actors end less evenly.
    size = workers.batch * min(
        MAX_BATCHES_PER_TASK, max(1, int(MAX_IDLE_SHARE * batches / workers.models))
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
            schema=READ_TASK,
        )
        for span in spans
    ]


def _split(rows: list[tuple[int, list[int]]], size: int) -> list[list[tuple[int, list[int]]]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def connect() -> None:
    """Start or join Ray, without its progress bars and log messages on the terminal."""
    # A read task yields several batches, so a corpus may have fewer tasks than actors.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
    from factory.core.ray_cluster import start_ray

    start_ray(corpus=True)

"""What a corpus job has to do and how long it takes, before it runs.

The time of an image comes from the log of an earlier run of the same output, or else from a few
images that a worker of the cluster makes in a temporary folder.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from osasis.bundles.provenance import FORMATS
from pipelines.corpus_run import CorpusRun
from pipelines.job_folder import JobFolder
from pipelines.job_identity import FOLDER, read_job
from pipelines.job_log import LOG, RECORDS, JobLog
from pipelines.job_spec import JobSpec
from pipelines.result import StylizeResult
from pipelines.stream import Workers, connect

# Most photos on a CPU, and most mixes, that are measured; existing outputs whose bytes are looked
# at.
PROBE_PHOTOS, PROBE_MIXES, SIZES = 2, 4, 20
# A first batch that took longer is not repeated without the start-up work that it includes.
REPEAT_SECONDS = 20.0


@dataclass(frozen=True)
class Speed:
    """Seconds of a model actor to start, and of an image; of reading a photo, and of writing an
    image; bytes of an image."""

    start: float
    image: float
    read: float
    write: float
    image_bytes: float


@dataclass(frozen=True)
class Estimate:
    """What is left of a job. measured: "probe" or "history". bytes: of the outputs to make."""

    photos: int
    mixes: int
    styles: tuple[str, ...]
    images: int
    existing: int
    workers: int
    device: str
    seconds_per_image: float
    seconds: float
    gpu_hours: float
    bytes: int
    measured: str

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "styles": list(self.styles)}


def estimate_job(job: CorpusRun, manifest: pa.Table, plan: Callable[[int], Workers]) -> Estimate:
    """The estimate of a job. Changes nothing in its folder; starts or joins Ray.

    manifest: of the job. plan: the workers for a number of photos.
    """
    missing, existing = _missing(job, manifest)
    connect()
    workers = plan(max(1, len(missing)))
    speed, measured = _history(job), "history"
    if speed is None:
        measured = "probe"
        speed = _probe(job, manifest, missing, workers) if missing else Speed(0, 0, 0, 0, 0)
    images = sum(len(targets) for _, targets in missing)
    seconds = _seconds(speed, len(missing), images, workers)
    return Estimate(
        photos=manifest.num_rows,
        mixes=len(job.spec.targets),
        styles=tuple(s.reference for s in job.spec.styles.values()),
        images=images,
        existing=existing,
        workers=workers.models,
        device=workers.device,
        seconds_per_image=round(speed.image, 4),
        seconds=round(seconds, 1),
        gpu_hours=round(seconds * workers.gpus * workers.models / 3600, 3),
        bytes=round(speed.image_bytes * images),
        measured=measured,
    )


def estimated_result(
    job: CorpusRun, manifest: pa.Table, plan: Callable[[int], Workers]
) -> StylizeResult:
    """A result of a run that did nothing, with the job's estimate."""
    found = estimate_job(job, manifest, plan)
    output = Path(job.spec.output)
    return StylizeResult(
        found.photos, found.styles, found.existing, (), output, 0.0, found.existing,
        estimate=found.to_dict(),
    )  # fmt: skip


def _seconds(speed: Speed, photos: int, images: int, workers: Workers) -> float:
    """The time of a run: that of its slowest part, as the parts overlap."""
    if not images:
        return 0.0
    model = images * speed.image / workers.models
    files = (photos * speed.read + images * speed.write) / workers.readers
    if not workers.gpus:  # readers and models share the cores
        return speed.start + model + files * workers.readers / (workers.models + workers.readers)
    return speed.start + max(model, files)


def _missing(job: CorpusRun, manifest: pa.Table) -> tuple[list[tuple[int, list[int]]], int]:
    """(photo, missing targets) of each photo that lacks an output, and the number of existing
    outputs. Outputs in Parquet are made as a whole."""
    spec = job.spec
    listed: set[str] = set()
    if spec.options.format != "parquet" and read_job(job.folder.folder) is not None:
        listed = set(job.folder.output.list())
    names, targets = (manifest[column].to_pylist() for column in ("name", "targets"))
    found, existing = [], 0
    for photo, (name, of_photo) in enumerate(zip(names, targets, strict=True)):
        left = [t for t in of_photo if spec.output_name(name, t) not in listed]
        existing += len(of_photo) - len(left)
        if left:
            found.append((photo, left))
    return found, existing


def _history(job: CorpusRun) -> Speed | None:
    """The speed of earlier runs of the same output; None where there were none."""
    saved = read_job(job.folder.folder)
    if saved is None:
        return None
    busy = images = 0.0
    for record in JobLog(job.folder.folder.within(saved.state)).lines(LOG, RECORDS):
        busy, images = busy + record.get("busy", 0), images + record.get("images", 0)
    if not images:
        return None
    parquet = job.spec.options.format == "parquet"
    suffix = ".parquet" if parquet else FORMATS[job.spec.options.encoding]
    output = job.folder.output
    names = [n for n in output.list() if n.endswith(suffix) and not n.startswith(FOLDER)]
    sizes = [len(output.read(name)) for name in names[:SIZES]]
    total = sum(sizes) / images if parquet else sum(sizes) / max(1, len(sizes))
    return Speed(0.0, busy / images, 0.0, 0.0, total)


def _probe(
    job: CorpusRun, manifest: pa.Table, missing: list[tuple[int, list[int]]], workers: Workers
) -> Speed:
    """The speed of a worker of the cluster, on a few photos that are evenly spread."""
    import ray

    from factory.core.gpus import remote_task

    count = min(len(missing), workers.batch if workers.gpus else PROBE_PHOTOS)
    chosen = [missing[i * len(missing) // count] for i in range(count)]
    rows = manifest.take([photo for photo, _ in chosen])
    todo = [targets[:PROBE_MIXES] for _, targets in chosen]
    spec = job.spec.replace(batch=len(chosen))
    found: Speed = ray.get(
        remote_task(measure, gpus=workers.gpus).remote(spec, rows, todo, workers.device)
    )
    return found


def measure(job: JobSpec, rows: pa.Table, todo: list[list[int]], device: str) -> Speed:
    """Stylize the photos of a manifest with the job's operators in a temporary folder."""
    from pipelines.read_squares import READ_TASK, read_squares
    from pipelines.stylize_squares import StylizeSquares
    from pipelines.write_outputs import write_outputs

    with tempfile.TemporaryDirectory() as temporary:
        folder = JobFolder(Path(temporary))
        masks = job.photo_masks and job.photo_masks.replace(save=None)
        folder.open({"input": ""}, rows)
        place = folder.place.location
        job = job.replace(folder=place, output=temporary, run=folder.run, photo_masks=masks)
        tasks = [{"index": i, "todo": targets} for i, targets in enumerate(todo)]
        started = time.perf_counter()
        squares = list(read_squares(pa.Table.from_pylist(tasks, schema=READ_TASK), job))
        read = time.perf_counter() - started
        started = time.perf_counter()
        actor = StylizeSquares(job, device)
        start = time.perf_counter() - started
        batches = [batch for batch in squares if batch.num_rows]
        seconds, stylized = _stylize(actor, batches)
        if seconds < REPEAT_SECONDS:  # the first time includes the loading of styles
            again, _ = _stylize(actor, batches)
            start, seconds = start + max(0.0, seconds - again), again
        started = time.perf_counter()
        for table in stylized:
            write_outputs(table, job)
        write = time.perf_counter() - started
        images = max(1, sum(len(t) for table in batches for t in table["todo"].to_pylist()))
        sizes = sum(p.stat().st_size for p in Path(temporary).rglob("*") if _is_output(p, job))
    return Speed(start, seconds / images, read / len(todo), write / images, sizes / images)


def _stylize(actor: Any, batches: list[pa.Table]) -> tuple[float, list[pa.Table]]:
    started = time.perf_counter()
    done = [actor(batch) for batch in batches]
    return time.perf_counter() - started, done


def _is_output(path: Path, job: JobSpec) -> bool:
    if job.options.format == "parquet":
        return path.suffix == ".parquet" and path.parent.name == "parts"
    return path.is_file() and path.suffix == FORMATS[job.options.encoding]

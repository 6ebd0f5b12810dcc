"""The first operator: reads photos and fits them to the base's square. Runs in CPU tasks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from factory.core.object_store import StoreError
from osasis.bundles.provenance import kept_exif
from osasis.errors import FitError, ImageError, UserError
from osasis.images.fitting import fit_photo
from osasis.images.masks import shape_problem
from osasis.storage import write_atomic
from pipelines.job_folder import OutputRecord, stopped, write_records
from pipelines.job_spec import JobSpec
from pipelines.manifest import manifest_rows, photo_digest
from pipelines.parquet_input import read_group
from pipelines.photo_bytes import is_in_store, is_refusal, read_photo, row_photo
from pipelines.photo_mask import check_segmenter, read_photo_mask
from pipelines.store_check import check_of_job
from pipelines.subprocess_timeout import CallTimeoutError, WorkerCrashedError, run_with_timeout

MASK_NULL = "the row's mask is null"
# A table is yielded at this size even if it has fewer rows than a model batch.
MAX_TABLE_BYTES = 32 * 1024 * 1024

# A read task: rows of the manifest, each with the targets that it still lacks.
READ_TASK = pa.schema([("index", pa.int64()), ("todo", pa.list_(pa.int32()))])
SQUARES = pa.schema(
    [
        *READ_TASK,
        ("width", pa.int32()),
        ("height", pa.int32()),
        # Of ``FittedPhoto``.
        ("places", pa.string()),
        ("squares", pa.list_(pa.large_binary())),
        ("photo", pa.large_binary()),
        ("transparent", pa.bool_()),
        ("alpha", pa.large_binary()),
        ("exif", pa.large_binary()),
        # Of the bytes of the photo and its mask.
        ("digest", pa.string()),
        # Of ``PhotoMask``; null where there is none.
        ("mask", pa.large_binary()),
        ("mask_square", pa.large_binary()),
        ("mask_sha256", pa.string()),
    ]
)
# Returns the bytes of a photo or mask; can be pickled.
Fetch = Callable[[], bytes]


@dataclass(frozen=True)
class Refusal:
    """A store has refused a photo or its mask, or did not answer in time."""

    reason: str


def read_squares(task: pa.Table, job: JobSpec) -> Iterator[pa.Table]:
    """Read the photos of a READ_TASK; yields tables (schema SQUARES) of one model batch each.

    A photo that cannot be read is recorded as an error and is not yielded. Raises StoreError where
    a store refuses all photos, and UserError where the segmenter's model is another than that of
    the job; photos that are not recorded stay missing.
    """
    check_segmenter(job)
    todo = dict(zip(task["index"].to_pylist(), task["todo"].to_pylist(), strict=True))
    rows = manifest_rows(job.folder, list(todo))
    ready: list[dict[str, Any]] = []
    errors: list[OutputRecord] = []
    size = 0
    try:
        for row, fetch, fetch_mask in fetchers(rows, job):
            if stopped(job.folder, job.run):
                break
            index = row["index"]
            result = _read_or_stop(row, fetch, fetch_mask, job.composites(todo[index]), job)
            if isinstance(result, dict):
                _save_mask(row, result["mask"], job)
                refused = _mask_errors(index, todo[index], result, job)
                errors += refused
                fitting = [t for t in todo[index] if t not in {r.target for r in refused}]
                if fitting:
                    ready.append({"index": index, "todo": fitting, **result})
                    size += sum(len(result[name] or b"") for name in ("photo", "mask"))
                    size += sum(map(len, result["squares"]))
            else:
                errors += [OutputRecord(index, target, *result) for target in todo[index]]
            if len(ready) >= job.batch or size >= MAX_TABLE_BYTES:
                yield pa.Table.from_pylist(ready, schema=SQUARES)
                ready, size = [], 0
    finally:
        if errors:
            write_records(job.folder, job.run, errors)
    yield pa.Table.from_pylist(ready, schema=SQUARES)


def _save_mask(row: dict[str, Any], png: bytes | None, job: JobSpec) -> None:
    """Write a photo's mask, named like its outputs, where masks are saved. Raises DiskFullError."""
    if png is not None and job.photo_masks is not None and job.photo_masks.save is not None:
        write_atomic(Path(job.photo_masks.save) / f"{os.fsdecode(row['name'])}.png", png)


def _mask_errors(
    index: int, targets: list[int], photo: dict[str, Any], job: JobSpec
) -> list[OutputRecord]:
    """An error for each target with a mask that the photo lacks, or of another shape than its."""
    size, cropped = (photo["width"], photo["height"]), job.options.crop is not None
    sizes = {name: mask.image().size for name, mask in job.masks.items()}
    records = []
    for target in targets:
        if job.names_photo_mask(target) and photo["mask_problem"]:
            records.append(OutputRecord(index, target, "mask", photo["mask_problem"]))
            continue
        names = [s.mask for s in job.targets[target].mix.styles if s.mask in sizes]
        problems = {n: shape_problem(sizes[n], size, cropped) for n in names}
        found = next((f"mask {name} {text}" for name, text in problems.items() if text), None)
        if found:
            records.append(OutputRecord(index, target, "fit", found))
    return records


def fetchers(
    rows: list[dict[str, Any]], job: JobSpec
) -> Iterator[tuple[dict[str, Any], Fetch, Fetch | None]]:
    """Each row with functions that return the bytes of its photo and of its mask, if it has one.

    A Parquet row group is read in one pass.
    """
    for row in (r for r in rows if r["row"] < 0):
        yield row, partial(read_photo, os.fsdecode(row["path"])), _mask_fetcher(row)
    groups: dict[tuple[bytes, int], dict[int, dict[str, Any]]] = {}
    for row in rows:
        if row["row"] >= 0:
            groups.setdefault((row["path"], row["group"]), {})[row["row"]] = row
    masks = job.photo_masks.column if job.photo_masks else None
    columns = [name for name in (job.image_column, masks) if name is not None]
    for (path, group), by_row in groups.items():
        try:
            wanted = list(by_row)
            for number, (data, *mask) in read_group(os.fsdecode(path), group, columns, wanted):
                row = by_row.pop(number)
                own = partial(row_photo, mask[0], MASK_NULL) if mask else _mask_fetcher(row)
                yield row, partial(row_photo, data), own
        except (UserError, OSError, pa.ArrowException) as e:
            reason = str(e).splitlines()[0][:200] if str(e) else type(e).__name__
            refused = is_refusal(e, os.fsdecode(path))
            fetch = partial(_refused, reason) if refused else partial(row_photo, None, reason)
            for row in by_row.values():
                yield row, fetch, None


def _refused(reason: str) -> bytes:
    raise StoreError(reason)


def _mask_fetcher(row: dict[str, Any]) -> Fetch | None:
    """Reads the mask file of a row of the manifest; None where the job has no masks of photos."""
    if reason := row.get("mask_problem"):
        return partial(row_photo, None, reason)
    return partial(read_photo, os.fsdecode(row["mask"])) if row.get("mask") else None


def _read_or_stop(
    row: dict[str, Any], fetch: Fetch, fetch_mask: Fetch | None, composited: bool, job: JobSpec
) -> dict[str, Any] | tuple[str, str]:
    """A row of SQUARES without index and todo but with mask_problem, or (stage, reason) of the
    failure. row: of the manifest. composited: whether masks leave parts of the photo as they are.

    Where a store refuses the photo and gives others, it is asked for the photo once more. Raises
    StoreError where it gives none.
    """
    places = [os.fsdecode(row[name]) for name in ("path", "mask") if row.get(name)]
    stored = next(filter(is_in_store, places), None)
    result = _read_with_timeout(fetch, fetch_mask, composited, job, stored)
    if not isinstance(result, Refusal):
        return result
    check_of_job(job.folder, job.timeout).check(StoreError(result.reason))
    fetch = partial(_fail_alone, fetch, places)
    fetch_mask = partial(_fail_alone, fetch_mask, places) if fetch_mask is not None else None
    again = _read_with_timeout(fetch, fetch_mask, composited, job, None)
    assert not isinstance(again, Refusal)
    return again


def _fail_alone(fetch: Fetch, places: list[str]) -> bytes:
    """The bytes of a photo or mask, whose refusal is its own fault. Raises ImageError.

    places: locations that the report of the failure names, so that the reason need not.
    """
    try:
        return fetch()
    except StoreError as e:
        reason = str(e)
        for place in places:
            reason = reason.removeprefix(f"{place}: ")
        raise ImageError("image", reason) from None


def _read_with_timeout(
    fetch: Fetch, fetch_mask: Fetch | None, composited: bool, job: JobSpec, stored: str | None
) -> dict[str, Any] | tuple[str, str] | Refusal:
    """As ``_read``, within the job's time. stored: where the photo is, if it is in a store."""
    try:
        return run_with_timeout(job.timeout, _read, fetch, fetch_mask, composited, job)
    except CallTimeoutError as e:
        return ("read", str(e)) if stored is None else Refusal(f"{stored}: {e}")
    except WorkerCrashedError as e:
        return "read", str(e)


def _read(
    fetch: Fetch, fetch_mask: Fetch | None, composited: bool, job: JobSpec
) -> dict[str, Any] | tuple[str, str] | Refusal:
    options = job.options
    stage = "read"
    try:
        data = fetch()
        stage = "decode"
        fitted = fit_photo(
            data, job.square, options, keep_alpha=options.keeps_alpha, masked=composited
        )
        exif = kept_exif(data) if options.metadata == "keep" else None
        mask = read_photo_mask(data, fetch_mask, fitted.size, job)
        digest = photo_digest(data, mask.file)
        return {**fitted.to_row(), "exif": exif, "digest": digest, **mask.to_row()}
    except ImageError as e:
        return "fit" if isinstance(e, FitError) else stage, e.reason
    except StoreError as e:
        return Refusal(str(e))
    except UserError as e:
        return stage, str(e)
    except (OSError, ValueError, MemoryError) as e:
        return stage, f"{type(e).__name__}: {e}"

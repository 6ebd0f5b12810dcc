"""The third operator: composites stylized squares into photos, writes and records the outputs."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
from PIL import Image

from factory.core.failures import describe_failure
from factory.core.object_store import StoreError
from factory.core.stores import open_store
from osasis.arithmetic import Arithmetic
from osasis.bundles.provenance import encode_image
from osasis.errors import ImageError
from osasis.images.decoding import read_png
from osasis.images.fitting import Compositor, FittedPhoto
from osasis.storage import DiskFullError
from pipelines.job_folder import OutputRecord, part_name, superseded, write_records
from pipelines.job_spec import JobSpec
from pipelines.manifest import manifest_rows, parquet_bytes, printable
from pipelines.subprocess_timeout import CallTimeoutError, WorkerCrashedError, run_with_timeout

WRITTEN = pa.schema([("index", pa.int64())])
PART = pa.schema([("index", pa.int64()), ("target", pa.int32()), ("stylized", pa.large_binary())])


def write_outputs(batch: pa.Table, job: JobSpec) -> pa.Table:
    """Write the outputs of a batch (schema STYLIZED) and record them; returns schema WRITTEN.

    Raises DiskFullError and StoreError; the outputs that are not written stay missing.
    """
    # After a stop, outputs that are already computed are still written.
    if not batch.num_rows or superseded(job.folder, job.run):
        return WRITTEN.empty_table()
    rows = batch.to_pylist()
    listed = manifest_rows(job.folder, [r["index"] for r in rows])
    part: list[dict[str, Any]] = []
    records: list[OutputRecord] = []
    try:
        for row, listing in zip(rows, listed, strict=True):
            records += (_write_output(row, listing, k, job, part) for k in range(len(row["todo"])))
    except (DiskFullError, StoreError):
        if job.options.format != "parquet":
            # Without a record, they are made again.
            with contextlib.suppress(DiskFullError, StoreError):
                write_records(job.folder, job.run, records)
        raise
    finally:
        _compositors.clear()
    if part:
        records = _write_part(part, records, job)
    stats: dict[str, Any] = {
        name: (max if name == "ended" else sum)(row[name] for row in rows)
        for name in ("busy", "ended", "images", "passes")
    }
    write_records(job.folder, job.run, records, {**stats, "run": job.run, "node": rows[0]["node"]})
    return pa.table([[r["index"] for r in rows]], schema=WRITTEN)


def _write_output(
    row: dict[str, Any], listing: dict[str, Any], k: int, job: JobSpec, part: list[dict[str, Any]]
) -> OutputRecord:
    """Write the output of the row's k-th target to its file, or append it to ``part``."""
    index, target, count = row["index"], row["todo"][k], len(row["squares"])
    failed = partial(OutputRecord, index, target)
    if row["failed"][k]:
        return failed("model", row["failed"][k])
    stylized = row["stylized"][k * count : (k + 1) * count]
    arithmetic = row["arithmetic"][k]
    try:
        data = run_with_timeout(
            job.timeout, _encode_output, row, stylized, listing, target, arithmetic, job
        )
        if isinstance(data, str):
            return failed("write", data)
        if job.options.format == "parquet":
            part.append({"index": index, "target": target, "stylized": data})
        else:
            open_store(job.output).write(job.output_name(listing["name"], target), data)
    except (CallTimeoutError, WorkerCrashedError) as e:
        return failed("write", str(e))
    except (DiskFullError, StoreError):
        raise
    except OSError as e:
        return failed("write", describe_failure(e))
    return OutputRecord(index, target, digest=row["digest"])


# The compositor of the last photo, by (run, photo); the photo's next target reuses it.
_compositors: dict[tuple[str, int], Compositor] = {}


def _encode_output(
    row: dict[str, Any],
    stylized: list[bytes],
    listing: dict[str, Any],
    target: int,
    arithmetic: Arithmetic,
    job: JobSpec,
) -> bytes | str:
    """The encoded output with its provenance, or the reason why it failed."""
    key = (job.run, row["index"])
    if key not in _compositors:
        _compositors.clear()
        _compositors[key] = Compositor(FittedPhoto.from_row(row), job.options)
    try:
        return encode_image(
            _compositors[key].composite([read_png(s) for s in stylized], _masks(row, target, job)),
            job.provenance(target, printable(listing["key"]), arithmetic, row),
            exif=row["exif"],
            embed=job.options.provenance != "none",
        )
    except (OSError, ValueError, ImageError, MemoryError) as e:
        return describe_failure(e)


def _masks(row: dict[str, Any], target: int, job: JobSpec) -> list[Image.Image]:
    """The masks outside of which a target keeps the photo; none where it keeps no part of it."""
    if not job.keeps_photo(target):
        return []
    own, masks = row["mask"], job.masks
    return [
        masks[s.mask].image() if s.mask in masks else read_png(own, "L")
        for s in job.targets[target].mix.styles
    ]


def _write_part(
    part: list[dict[str, Any]], records: Sequence[OutputRecord], job: JobSpec
) -> list[OutputRecord]:
    """Write a batch's Parquet outputs to one part file; ``write_tables`` later orders the parts."""
    name = f"{uuid.uuid4().hex}.parquet"
    table = pa.Table.from_pylist(part, schema=PART)
    changes: dict[str, Any] = {"part": name}
    try:
        data = parquet_bytes(table, compression="none")
        open_store(job.folder).write(part_name(name), data)
    except (DiskFullError, StoreError):
        raise
    except OSError as e:
        changes = {"stage": "write", "reason": describe_failure(e)}
    return [r if r.stage else replace(r, **changes) for r in records]

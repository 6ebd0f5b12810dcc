"""The third operator: stylized squares to outputs on disk, and the record that they are there."""

from __future__ import annotations

import io
import json
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from osasis.arithmetic import Arithmetic
from osasis.bundles.provenance import encode_image
from osasis.errors import ImageError
from osasis.images.compositing import composite_into_photo
from osasis.images.decoding import load_sized
from osasis.images.geometry import SquarePlacement
from osasis.storage import write_atomic
from pipelines.job_folder import superseded, write_records
from pipelines.job_spec import JobSpec
from pipelines.manifest import manifest_rows, shown
from pipelines.read_squares import decode_png
from pipelines.subprocess_timeout import HelperDiedError, TimeLimitExceededError, run_within_limit

WRITTEN = pa.schema([("index", pa.int64()), ("done", pa.int32())])
PART = pa.schema([("index", pa.int64()), ("target", pa.int32()), ("stylized", pa.large_binary())])


def write_outputs(batch: pa.Table, job: JobSpec) -> pa.Table:
    """Write a batch (schema STYLIZED) and record it; returns schema WRITTEN."""
    # What the model has made is written, unless another driver has taken over.
    if not batch.num_rows or superseded(job.folder, job.run):
        return WRITTEN.empty_table()
    rows = batch.to_pylist()
    listed = manifest_rows(f"{job.folder}/manifest.parquet", [r["index"] for r in rows])
    records: list[dict[str, Any]] = []
    part: list[dict[str, Any]] = []
    done = []
    for row, listing in zip(rows, listed, strict=True):
        before = len(records)
        records += _outputs(row, listing, job, part)
        done.append(sum(r["status"] == "done" for r in records[before:]))
    _canvas.clear()
    if part:
        _write_part(part, records, job)
    facts: dict[str, Any] = {
        name: (max if name == "ended" else sum)(row[name] for row in rows)
        for name in ("busy", "ended", "images", "passes")
    }
    facts |= {"run": job.run, "node": rows[0]["node"]}
    write_records(job.folder, job.run, records, facts)
    return pa.table([[r["index"] for r in rows], done], schema=WRITTEN)


def _outputs(
    row: dict[str, Any], listing: dict[str, Any], job: JobSpec, part: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Write all outputs of a photo; one record a target."""
    records = []
    count = len(row["squares"])
    for k, target in enumerate(row["todo"]):
        record = {"photo": row["index"], "target": target}
        try:
            if row["failed"][k]:
                raise _FailedError("model", row["failed"][k])
            stylized = row["stylized"][k * count : (k + 1) * count]
            arithmetic = row["arithmetic"][k]
            data = run_within_limit(
                job.timeout, _encoded, row, stylized, listing, target, arithmetic, job
            )
            if isinstance(data, str):
                raise _FailedError("write", data)
            if job.options.format == "parquet":
                part.append({**_part_key(row, target), "stylized": data})
            else:
                write_atomic(job.output_path(listing["name"], target), data)
            records.append({**record, "status": "done"})
        except _FailedError as e:
            records.append({**record, "status": "error", "stage": e.stage, "reason": e.reason})
        except (TimeLimitExceededError, HelperDiedError) as e:
            records.append({**record, "status": "error", "stage": "write", "reason": str(e)})
        except OSError as e:
            records.append({**record, "status": "error", "stage": "write", "reason": _described(e)})
    return records


def _described(error: Exception) -> str:
    from factory.core.failures import describe_failure  # loads torch; most writers meet no failure

    return describe_failure(error)


def _part_key(row: dict[str, Any], target: int) -> dict[str, Any]:
    return {"index": row["index"], "target": target}


class _FailedError(Exception):
    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage, self.reason = stage, reason


class _Canvas:
    """A photo's part of the way back, decoded once for all its targets."""

    def __init__(self, row: dict[str, Any], job: JobSpec) -> None:
        self.row, self.job = row, job
        told = json.loads(row["places"])
        self.fit: str = told["fit"]
        self.places = [SquarePlacement(*p) for p in told["at"]]
        self._photo: Image.Image | None = None
        self._squares: list[Image.Image] | None = None

    def put_back(self, stylized: list[bytes]) -> Image.Image:
        """The output's pixels."""
        after = [decode_png(s) for s in stylized]
        if self.job.options.size == "base":
            return after[0]
        if self._squares is None:
            self._squares = [decode_png(s) for s in self.row["squares"]]
            if self.row["photo"] is not None:
                self._photo, _ = load_sized(self.row["photo"], min_side=1)
        size = (self.row["width"], self.row["height"])
        return composite_into_photo(
            size, self.fit, self.places, self._squares, after,
            photo=self._photo, detail=self.job.options.detail,
        )  # fmt: skip


# The canvas of the photo that was last worked on: its next target finds it here.
_canvas: dict[tuple[str, int], _Canvas] = {}


def _encoded(
    row: dict[str, Any],
    stylized: list[bytes],
    listing: dict[str, Any],
    target: int,
    arithmetic: Arithmetic,
    job: JobSpec,
) -> bytes | str:
    """An output's file, or why there is none."""
    key = (job.run, row["index"])
    if key not in _canvas:
        _canvas.clear()
        _canvas[key] = _Canvas(row, job)
    try:
        return encode_image(
            _canvas[key].put_back(stylized),
            job.provenance(target, shown(listing["key"]), arithmetic),
            exif=row["exif"],
        )
    except (OSError, ValueError, ImageError, MemoryError) as e:
        return _described(e)


def _write_part(part: list[dict[str, Any]], records: list[dict[str, Any]], job: JobSpec) -> None:
    """Outputs of a batch as one file among the parts; the job's end puts them in order."""
    name = f"{uuid.uuid4().hex}.parquet"
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(part, schema=PART), sink, compression="none")
    try:
        write_atomic(Path(job.folder) / "parts" / name[:2] / name, sink.getvalue())
    except OSError as e:
        reason = _described(e)
        for record in records:
            if record["status"] == "done":
                record |= {"status": "error", "stage": "write", "reason": reason}
        return
    for record in records:
        if record["status"] == "done":
            record["part"] = name

"""The first operator: bytes to squares. Runs in a pool of CPU tasks; small PNGs leave it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa
from PIL import Image

from osasis.bundles.provenance import kept_exif
from osasis.errors import ImageError, UserError
from osasis.images.compositing import downscaled_photo, photo_needed
from osasis.images.decoding import load_sized, png_bytes
from osasis.images.geometry import SquarePlacement, fit_square, placement_for_fit
from pipelines.job_folder import stopped, write_records
from pipelines.job_spec import JobSpec
from pipelines.manifest import manifest_rows
from pipelines.source import read_group, read_photo
from pipelines.subprocess_timeout import HelperDiedError, TimeLimitExceededError, run_within_limit

# A table is handed on when it holds this much, even if its rows are few.
TABLE_BYTES = 32 * 1024 * 1024

ORDER = pa.schema([("index", pa.int64()), ("todo", pa.list_(pa.int32()))])
SQUARES = pa.schema(
    [
        *ORDER,
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("places", pa.string()),
        ("squares", pa.list_(pa.large_binary())),
        ("photo", pa.large_binary()),
        ("exif", pa.large_binary()),
    ]
)
# Brings the bytes of a photo; may be sent to another process.
Fetch = Callable[[], bytes]


def read_squares(orders: pa.Table, job: JobSpec) -> Iterator[pa.Table]:
    """Rows of the manifest (schema ORDER) to squares (schema SQUARES), a few at a time.

    A photo that cannot be read is recorded with its reason and goes no further.
    """
    todo = dict(zip(orders["index"].to_pylist(), orders["todo"].to_pylist(), strict=True))
    rows = manifest_rows(f"{job.folder}/manifest.parquet", list(todo))
    ready: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    held = 0
    for row, fetch in _fetched(rows, job):
        if stopped(job.folder, job.run):
            break
        found = _row(fetch, job)
        if isinstance(found, dict):
            ready.append({"index": row["index"], "todo": todo[row["index"]], **found})
            held += _weight(found)
        else:
            stage, reason = found
            errors += [
                {"photo": row["index"], "target": t, "status": "error", "stage": stage,
                 "reason": reason}
                for t in todo[row["index"]]
            ]  # fmt: skip
        if len(ready) >= job.batch or held >= TABLE_BYTES:
            yield pa.Table.from_pylist(ready, schema=SQUARES)
            ready, held = [], 0
    if errors:
        write_records(job.folder, job.run, errors)
    yield pa.Table.from_pylist(ready, schema=SQUARES)


def _weight(row: dict[str, Any]) -> int:
    return len(row["photo"] or b"") + sum(map(len, row["squares"]))


def _fetched(rows: list[dict[str, Any]], job: JobSpec) -> Iterator[tuple[dict[str, Any], Fetch]]:
    """Each row with what brings its bytes; rows of a Parquet group are read in one pass."""
    for row in (r for r in rows if r["row"] < 0):
        yield row, partial(read_photo, os.fsdecode(row["path"]))
    inside: dict[tuple[bytes, int], list[dict[str, Any]]] = {}
    for row in rows:
        if row["row"] >= 0:
            inside.setdefault((row["path"], row["group"]), []).append(row)
    for (path, group), members in inside.items():
        by_row = {r["row"]: r for r in members}
        try:
            for number, data in read_group(os.fsdecode(path), group, job.image, list(by_row)):
                yield by_row.pop(number), partial(_present, data)
        except (UserError, OSError, pa.ArrowException) as e:
            reason = str(e).splitlines()[0][:200] if str(e) else type(e).__name__
            for row in by_row.values():
                yield row, partial(_raise, "image", reason)


def _present(data: bytes | None) -> bytes:
    return _raise("image", "the row holds no image (null)") if data is None else data


def _raise(name: str, reason: str) -> bytes:
    raise ImageError(name, reason)


def _row(fetch: Fetch, job: JobSpec) -> dict[str, Any] | tuple[str, str]:
    """A row of SQUARES, or the stage that failed and why."""
    try:
        return run_within_limit(job.timeout, _read, fetch, job)
    except (TimeLimitExceededError, HelperDiedError) as e:
        return "read", str(e)


def _read(fetch: Fetch, job: JobSpec) -> dict[str, Any] | tuple[str, str]:
    stage = "read"
    try:
        data = fetch()
        stage = "decode"
        image, size = load_sized(data, target=None if _whole(job) else job.square)
        stage = "fit"
        return {**_fitted(image, size, data, job), "exif": _exif(data, job)}
    except ImageError as e:
        return stage, e.reason
    except UserError as e:
        return stage, str(e)
    except (OSError, ValueError, MemoryError) as e:
        return stage, f"{type(e).__name__}: {e}"


def _whole(job: JobSpec) -> bool:
    return bool(job.options.fit == "align" or (job.options.detail and job.options.size == "photo"))


def _exif(data: bytes, job: JobSpec) -> bytes | None:
    return kept_exif(data) if job.options.metadata == "keep" else None


def _fitted(image: Image.Image, size: tuple[int, int], data: bytes, job: JobSpec) -> dict[str, Any]:
    """The squares of a photo, their places, and what the way back needs of it."""
    square, fit = job.square, job.options.fit
    places: list[SquarePlacement] = []
    if fit == "align":
        from osasis.images.faces import cut_square, find_faces

        places = find_faces(image)
        squares = [cut_square(image, p, square) for p in places]
        if not places:
            if job.options.no_face == "error":
                raise ImageError("image", "no face is found")
            fit = "align" if job.options.no_face == "keep" else "crop"
    if fit != "align":
        places = [placement_for_fit(size, square, fit)]
        squares = [fit_square(image, square, fit)]
    need = photo_needed(size, fit, job.options.detail) if job.options.size == "photo" else ""
    photo = None
    if need == "whole":
        photo = data
    elif need == "small":
        photo = png_bytes(downscaled_photo(image, square))
    return {
        "width": size[0],
        "height": size[1],
        "places": json.dumps({"fit": fit, "at": [p.to_list() for p in places]}),
        "squares": [png_bytes(s) for s in squares],
        "photo": photo,
    }


def decode_png(data: bytes) -> Image.Image:
    """A PNG of our own."""
    return Image.open(io.BytesIO(data), formats=["PNG"]).convert("RGB")

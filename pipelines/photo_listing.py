"""The listing of a corpus: one row per photo."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pyarrow as pa

from factory.core.uris import URI

# key: the photo's relative path or name; outputs are named after it. path: path or URI of the image
# file, or of the Parquet file that holds the photo at (group, row); else group and row are -1. size
# (bytes), mtime (ns): of that file; a resumed job compares them to detect a changed input.
LISTING = pa.schema(
    [
        ("key", pa.large_binary()),
        ("path", pa.large_binary()),
        ("group", pa.int32()),
        ("row", pa.int32()),
        ("size", pa.int64()),
        ("mtime", pa.int64()),
    ]
)
# Further columns where each photo has a mask of its own. mask: path or URI of its file; null where
# the photo has none, for the reason mask_problem, and where a Parquet input holds it. mask_size,
# mask_mtime: of the file.
MASKS = pa.schema(
    [
        ("mask", pa.large_binary()),
        ("mask_size", pa.int64()),
        ("mask_mtime", pa.int64()),
        ("mask_problem", pa.string()),
    ]
)


def listing_names(table: pa.Table) -> list[str]:
    """The columns of a manifest that say which photos, and which masks of them, it lists."""
    return [*LISTING.names, *(name for name in MASKS.names if name in table.column_names)]


def mask_table(
    locations: Sequence[bytes | None],
    stats: Sequence[tuple[int | None, int | None]],
    problems: Sequence[str | None],
) -> pa.Table:
    """The columns ``MASKS``. stats: size and mtime by photo."""
    sizes, times = ([s[i] for s in stats] for i in (0, 1))
    columns = zip((locations, sizes, times, problems), MASKS.types, strict=True)
    return pa.table([pa.array(values, kind) for values, kind in columns], schema=MASKS)


def masks_at(locations: Sequence[str | None], missing: str) -> pa.Table:
    """A ``mask_table`` of masks at paths or URIs. missing: the reason why a photo has none."""
    at = [None if place is None else absolute(place) for place in locations]
    return mask_table(
        [None if place is None else _encode(place) for place in at],
        [(None, None) if place is None else size_and_mtime(place) for place in at],
        [missing if place is None else None for place in at],
    )


def size_and_mtime(location: str) -> tuple[int, int]:
    """Size and modification time; (-1, 0) for a URI or a missing file, which fails when read."""
    if URI.match(location):
        return -1, 0
    try:
        found = os.stat(location)  # noqa: PTH116  # undecodable names, many files
    except (OSError, ValueError):
        return -1, 0
    return found.st_size, found.st_mtime_ns


def listing_table(
    keys: Sequence[str],
    locations: Sequence[str],
    stats: Sequence[tuple[int, int]],
    positions: Sequence[tuple[int, int]] | None = None,
) -> pa.Table:
    """A listing. stats: size and mtime; positions: row group and row; both by photo."""
    positions = positions or [(-1, -1)] * len(keys)
    return pa.table(
        [
            pa.array([_encode(k) for k in keys], pa.large_binary()),
            pa.array([_encode(p) for p in locations], pa.large_binary()),
            pa.array([g for g, _ in positions], pa.int32()),
            pa.array([r for _, r in positions], pa.int32()),
            pa.array([s for s, _ in stats], pa.int64()),
            pa.array([m for _, m in stats], pa.int64()),
        ],
        schema=LISTING,
    )


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def absolute(location: str) -> str:
    """A location that does not depend on the current folder."""
    return location if URI.match(location) else os.path.abspath(location)  # noqa: PTH100

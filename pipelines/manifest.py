"""The manifest: every photo of a job with its output's name and its targets, on disk.

A row is a photo; a photo and one of its targets is an output with an id of its own. Workers read
the few rows that they need, so that a corpus of any size passes through a driver of any size.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from osasis.storage import write_atomic
from pipelines.source import LISTING, Source

GROUP = 1024
SCHEMA = pa.schema(
    [
        *LISTING,
        ("name", pa.large_binary()),
        ("targets", pa.list_(pa.int32())),
        ("problem", pa.string()),
    ]
)


def build_manifest(
    source: Source, targets: Sequence[list[int]], problems: dict[int, str]
) -> pa.Table:
    """The source's listing with names and targets (indices into the job's targets)."""
    return pa.table(
        [
            *source.listing.columns,
            pa.array(output_names(source.listing["key"].to_pylist()), pa.large_binary()),
            pa.array(targets, pa.list_(pa.int32())),
            pa.array([problems.get(i) for i in range(source.count)], pa.string()),
        ],
        schema=SCHEMA,
    )


def output_names(keys: Sequence[bytes]) -> list[bytes]:
    """A name below a style's folder for each photo, without its suffix; no two are the same.

    a.jpg beside a.png keep their suffixes, so that neither takes the other's name; further equal
    names are numbered. Names compare without case, as some file systems do.
    """
    clean = [_inside(key) for key in keys]
    stems = [_stem(name) for name in clean]
    shared = Counter(s.lower() for s in stems)
    names = [s if shared[s.lower()] == 1 else n for s, n in zip(stems, clean, strict=True)]
    taken: set[bytes] = set()
    out = []
    for name in names:
        free, n = name, 1
        while free.lower() in taken:
            n += 1
            free = b"%s~%d" % (name, n)
        taken.add(free.lower())
        out.append(free)
    return out


def _inside(key: bytes) -> bytes:
    """A key as a relative path that stays inside its folder."""
    parts = [p for p in key.replace(b"\0", b"").split(b"/") if p not in (b"", b".", b"..")]
    return b"/".join(parts) or b"photo"


def _stem(name: bytes) -> bytes:
    text = name.decode("utf-8", "surrogateescape")
    path = PurePosixPath(text)
    return str(path.with_suffix("") if path.suffix else path).encode("utf-8", "surrogateescape")


def write_manifest(path: Path, table: pa.Table) -> None:
    """Write a manifest, atomically, in groups of ``GROUP`` rows."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=GROUP)
    write_atomic(path, sink.getvalue().to_pybytes())


def manifest_rows(path: str, indices: Sequence[int]) -> list[dict[str, Any]]:
    """Some rows of a manifest, each with its ``index``."""
    out = []
    for i in indices:
        group = _group(path, i // GROUP)
        row = {name: group[name][i % GROUP].as_py() for name in group.column_names}
        out.append({**row, "index": i})
    return out


@functools.lru_cache(maxsize=4)
def _group(path: str, group: int) -> pa.Table:
    with pq.ParquetFile(path) as table:
        return table.read_row_group(group)


def listing_digest(table: pa.Table) -> str:
    """A hash of what the inputs are: keys, places, sizes and times of change."""
    digest = hashlib.sha256()
    for batch in table.select(LISTING.names).combine_chunks().to_batches(max_chunksize=1 << 16):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            digest.update(repr(row).encode())
    return digest.hexdigest()[:16]


def first_difference(old: pa.Table, new: pa.Table) -> str:
    """In words, where two listings differ first."""
    if old.num_rows != new.num_rows:
        return f"{old.num_rows} photo(s) then, {new.num_rows} now"
    for name in LISTING.names:
        before, now = old[name].to_pylist(), new[name].to_pylist()
        for i, (a, b) in enumerate(zip(before, now, strict=True)):
            if a != b:
                key = shown(new["key"][i].as_py())
                what = {"size": "size", "mtime": "time of change"}.get(name, name)
                return f"{key} has another {what} than then"
    return "its photos are the same"


def row_id(row: dict[str, Any], mix: str) -> str:
    """The id of an output: its photo's identity and its mix (JSON)."""
    photo = repr(tuple(row[name] for name in LISTING.names))
    return hashlib.sha256(f"{photo}\n{mix}".encode()).hexdigest()[:16]


def shown(name: bytes) -> str:
    """A file name as text that any terminal and table can hold."""
    return name.decode("utf-8", "backslashreplace")

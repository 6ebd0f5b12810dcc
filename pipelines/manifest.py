"""The manifest of a job: a Parquet file with one row per photo, its output name and its targets.

Each pair of a photo and a target is an output with its own id. Workers read only the rows that
they process.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from factory.core.local_store import LONGEST_NAME
from factory.core.stores import Store, open_store
from pipelines.photo_listing import LISTING, listing_names
from pipelines.source import Source

ROW_GROUP = 1024
MANIFEST = "manifest.parquet"
SCHEMA = pa.schema(
    [
        *LISTING,
        ("name", pa.large_binary()),
        ("targets", pa.list_(pa.int32())),
        ("problem", pa.string()),
    ]
)


def build_manifest(
    source: Source,
    targets: Sequence[list[int]],
    problems: dict[int, str],
    names: Sequence[bytes] | None = None,
) -> pa.Table:
    """The source's listing with output names and targets (indices into the job's targets).

    problems: reasons why rows have no targets, by row. names: see ``output_names``, the default.
    """
    if names is None:
        names = output_names(source.listing["key"].to_pylist())[0]
    manifest = pa.table(
        [
            *source.listing.columns,
            pa.array(names, pa.large_binary()),
            pa.array(targets, pa.list_(pa.int32())),
            pa.array([problems.get(i) for i in range(source.count)], pa.string()),
        ],
        schema=SCHEMA,
    )
    if source.masks is not None:
        for field in source.masks.schema:
            manifest = manifest.append_column(field, source.masks[field.name])
    return manifest


def output_names(
    keys: Sequence[bytes],
    longest: int = LONGEST_NAME,
    known: Mapping[bytes, Sequence[bytes]] | None = None,
) -> tuple[list[bytes], int]:
    """A unique output name for each photo, and how many of them are shortened.

    A name is the photo's path below a style's folder, without suffix. Photos that differ only in
    the suffix (a.jpg, a.png) keep it. Further equal names are numbered. Names are compared without
    case, because some file systems ignore case. longest: bytes that a file name may have without
    the output's suffix; longer ones are shortened (see ``shortened``). known: names by key that
    photos keep, in order, from an earlier run; names of other photos differ from them.
    """
    kept = {key: list(reversed(of_key)) for key, of_key in (known or {}).items()}
    clean = [_safe_path(key) for key in keys]
    stems = [_stem(name) for name in clean]
    shared = Counter(s.lower() for s in stems)
    names = [s if shared[s.lower()] == 1 else n for s, n in zip(stems, clean, strict=True)]
    taken = {name.lower() for of_key in kept.values() for name in of_key}
    out = []
    short = 0
    for key, name in zip(keys, names, strict=True):
        if kept.get(key):
            out.append(kept[key].pop())
            continue
        full, n = name, 1
        while (unique := _short_path(full, longest)).lower() in taken:
            n += 1
            full = b"%s~%d" % (name, n)
        taken.add(unique.lower())
        short += unique != full
        out.append(unique)
    return out, short


def _short_path(path: bytes, longest: int) -> bytes:
    """A path whose folders have at most LONGEST_NAME bytes, and whose file name has ``longest``."""
    if len(path) <= longest:
        return path
    *folders, name = path.split(b"/")
    parts = [*(shortened(folder, LONGEST_NAME) for folder in folders), shortened(name, longest)]
    return b"/".join(parts)


def shortened(name: bytes, longest: int) -> bytes:
    """A name of at most ``longest`` bytes: its beginning, and a hash of the whole name."""
    if len(name) <= longest:
        return name
    digest = hashlib.sha256(name).hexdigest()[:12].encode()
    kept = name[: longest - len(digest) - 1]
    # No character of UTF-8 is cut: some file systems refuse names that are not UTF-8.
    for _ in range(3):
        if kept and 0x80 <= name[len(kept)] < 0xC0:
            kept = kept[:-1]
    return kept + b"~" + digest


def _safe_path(key: bytes) -> bytes:
    """A key as a relative path without "..", so that an output stays inside its folder."""
    parts = [p for p in key.replace(b"\0", b"").split(b"/") if p not in (b"", b".", b"..")]
    return b"/".join(parts) or b"photo"


def _stem(name: bytes) -> bytes:
    text = name.decode("utf-8", "surrogateescape")
    path = PurePosixPath(text)
    return str(path.with_suffix("") if path.suffix else path).encode("utf-8", "surrogateescape")


def write_manifest(folder: Store, table: pa.Table) -> None:
    """Write the manifest of a job's state, in row groups of ``ROW_GROUP``."""
    folder.write(MANIFEST, parquet_bytes(table, row_group_size=ROW_GROUP))


def read_manifest(
    folder: Store, name: str = MANIFEST, columns: Sequence[str] | None = None
) -> pa.Table:
    return pq.read_table(pa.BufferReader(folder.read(name)), columns=columns)


def parquet_bytes(table: pa.Table, **options: Any) -> bytes:
    """A table as a Parquet file. options: of ``pyarrow.parquet.write_table``."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return bytes(sink.getvalue().to_pybytes())


def manifest_rows(folder: str, indices: Sequence[int]) -> list[dict[str, Any]]:
    """The manifest rows of a job's state at ``indices``, each with its ``index``."""
    out = []
    for i in indices:
        group = _read_row_group(folder, i // ROW_GROUP)
        row = {name: group[name][i % ROW_GROUP].as_py() for name in group.column_names}
        out.append({**row, "index": i})
    return out


# The manifest of a state never changes: a changed job gets a new state.
@functools.lru_cache(maxsize=4)
def _read_row_group(folder: str, group: int) -> pa.Table:
    with open_store(folder).open(MANIFEST) as file, pq.ParquetFile(file) as table:
        return table.read_row_group(group)


def photo_digest(data: bytes, mask: bytes = b"") -> str:
    """A hash of a photo's bytes and those of its mask file, 16 hex digits."""
    digest = hashlib.sha256(data)
    digest.update(mask)
    return digest.hexdigest()[:16]


def listing_digest(table: pa.Table) -> str:
    """A hash of the photos' keys, paths, sizes and modification times."""
    digest = hashlib.sha256()
    names = listing_names(table)
    for batch in table.select(names).combine_chunks().to_batches(max_chunksize=1 << 16):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            digest.update(repr(row).encode())
    return digest.hexdigest()[:16]


def first_difference(old: pa.Table, new: pa.Table) -> str:
    """The first difference of two listings, as text."""
    if old.num_rows != new.num_rows:
        return f"{old.num_rows} photo(s) before, {new.num_rows} now"
    if listing_names(old) != listing_names(new):
        had, has = (
            "a mask for each photo" if "mask" in table.column_names else "no masks of photos"
            for table in (old, new)
        )
        return f"{had} before, {has} now"
    for name in listing_names(new):
        before, now = old[name].to_pylist(), new[name].to_pylist()
        for i, (a, b) in enumerate(zip(before, now, strict=True)):
            if a != b:
                key = printable(new["key"][i].as_py())
                what = {"mtime": "modification time"}.get(name, name.replace("_", " "))
                return f"{key} has another {what} than before"
    return "the photos are the same"


def output_id(row: dict[str, Any], mix: str) -> str:
    """The id of an output: a hash of its photo's row in the listing and of its mix (JSON)."""
    photo = repr(tuple(row[name] for name in LISTING.names))
    return hashlib.sha256(f"{photo}\n{mix}".encode()).hexdigest()[:16]


def printable(name: bytes) -> str:
    """A file name as text; bytes that are not UTF-8 are escaped."""
    return name.decode("utf-8", "backslashreplace")

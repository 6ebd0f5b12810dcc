"""What a corpus is made of: a folder, glob, list, one photo, Parquet, or any of these at a URI.

A source is a listing: one row a photo with its key (what names it in outputs), where its bytes
are, and what tells whether it has changed. Nothing is decoded here.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from factory.core.uris import URI, file_system, first_line, join_uri, redact, sibling_uri
from osasis.errors import ImageError, UserError
from osasis.images.decoding import IMAGE_SUFFIXES, find_images, read_image_file

MAX_BYTES = 512 * 1024 * 1024
BYTES_COLUMNS = ("image", "bytes", "photo", "content", "img")
PATH_COLUMNS = ("path", "file", "file_name", "filename", "image_path", "uri")
KEY_COLUMNS = ("key", "name", *PATH_COLUMNS, "id", "__key__")

# key: names the outputs. path: of the photo, or of the Parquet file that holds it at (group, row);
# row is -1 for a photo in a file of its own. size, mtime: of that file, for "has it changed?".
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


@dataclass(frozen=True)
class Source:
    """A listing. columns: per-row mix fields of a Parquet input. image: its column of bytes.
    table: the Parquet files of the input, in order; empty for other kinds."""

    kind: str
    name: str
    listing: pa.Table
    columns: dict[str, list[Any]]
    image: str | None = None
    table: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return int(self.listing.num_rows)


def open_source(
    given: str | os.PathLike[str],
    *,
    column: str | None = None,
    row_fields: Sequence[str] = (),
) -> Source:
    """List an input. column: of a Parquet input, the one with bytes or paths (default: by name).

    row_fields: names of columns to read for the mix. Raises UserError.
    """
    text = os.fspath(given)
    if URI.match(text):
        return _from_uri(text, column, row_fields)
    path = Path(text)
    if path.is_dir():
        tables = sorted(p for p in path.rglob("*.parquet") if not _hidden(p, path))
        if tables and not any(_photos_below(path)):
            return _from_parquet([str(p) for p in tables], text, column, row_fields)
        return _files("folder", text, find_images(path), path)
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix == ".parquet":
            return _from_parquet([text], text, column, row_fields)
        if suffix in (".txt", ".lst"):
            return _from_list(path)
        return _files("photo", text, [path], path.parent)
    if glob.has_magic(text):
        return _from_glob(text, column, row_fields)
    raise UserError(
        f"{text}: no such folder, photo, list (.txt) or Parquet file; globs match nothing else"
    )


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _photos_below(folder: Path) -> Iterator[Path]:
    return (
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in IMAGE_SUFFIXES and not _hidden(p, folder)
    )


def _from_glob(pattern: str, column: str | None, row_fields: Sequence[str]) -> Source:
    found = [Path(p) for p in sorted(glob.glob(pattern, recursive=True)) if Path(p).is_file()]  # noqa: PTH207
    tables = [p for p in found if p.suffix.lower() == ".parquet"]
    if tables and len(tables) == len(found):
        return _from_parquet([str(p) for p in tables], pattern, column, row_fields)
    photos = [p for p in found if p.suffix.lower() in IMAGE_SUFFIXES]
    if not photos:
        raise UserError(f"{pattern}: no photo matches (quote the pattern; ** goes into folders)")
    # Names start where the pattern begins to vary.
    fixed = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    return _files("glob", pattern, photos, Path(os.path.dirname(fixed) or "."))  # noqa: PTH120


def _from_list(path: Path) -> Source:
    """One path or URI a line, relative to the list's folder; blank lines and # comments pass."""
    lines = [os.fsdecode(line.strip()) for line in path.read_bytes().splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"{path}: the list is empty; write one path a line")
    places = [line if URI.match(line) else str(path.parent / line) for line in lines]
    keys = [re.sub(URI, "", line) for line in lines]
    if any(Path(k).is_absolute() for k in keys):
        keys = _below_common(keys)
    return _listed("list", str(path), keys, places)


def _below_common(keys: list[str]) -> list[str]:
    absolute = [k for k in keys if Path(k).is_absolute()]
    common = os.path.commonpath([str(Path(k).parent) for k in absolute])
    return [os.path.relpath(k, common) if Path(k).is_absolute() else k for k in keys]


def _files(kind: str, name: str, paths: Sequence[Path], root: Path) -> Source:
    keys = [os.path.relpath(p, root) for p in paths]
    return _listed(kind, name, keys, [str(p) for p in paths])


def _listed(kind: str, name: str, keys: Sequence[str], places: Sequence[str]) -> Source:
    facts = [_facts(p) for p in places]
    resolved = [p if URI.match(p) else os.path.abspath(p) for p in places]  # noqa: PTH100
    return Source(kind, name, _table(keys, resolved, facts), {})


def _facts(place: str) -> tuple[int, int]:
    """Size and time of change; (-1, 0) for what cannot be asked (its row will say why)."""
    if URI.match(place):
        return -1, 0
    try:
        found = os.stat(place)  # noqa: PTH116  # undecodable names, many files
    except (OSError, ValueError):
        return -1, 0
    return found.st_size, found.st_mtime_ns


def _table(
    keys: Sequence[str],
    places: Sequence[str],
    facts: Sequence[tuple[int, int]],
    at: Sequence[tuple[int, int]] | None = None,
) -> pa.Table:
    at = at if at is not None else [(-1, -1)] * len(keys)
    return pa.table(
        [
            pa.array([_encode(k) for k in keys], pa.large_binary()),
            pa.array([_encode(p) for p in places], pa.large_binary()),
            pa.array([g for g, _ in at], pa.int32()),
            pa.array([r for _, r in at], pa.int32()),
            pa.array([s for s, _ in facts], pa.int64()),
            pa.array([m for _, m in facts], pa.int64()),
        ],
        schema=LISTING,
    )


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# --- URIs -----------------------------------------------------------------------------------


def _from_uri(uri: str, column: str | None, row_fields: Sequence[str]) -> Source:
    try:
        fs, path = file_system(uri)
        info = fs.get_file_info(path)
        if info.type == pa.fs.FileType.NotFound:
            raise UserError(f"{redact(uri)}: nothing is there")
        single = info.type == pa.fs.FileType.File
        entries = [info] if single else fs.get_file_info(pa.fs.FileSelector(path, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{redact(uri)}: {first_line(error)}") from None
    root = os.path.dirname(path) if single else path  # noqa: PTH120
    # Paths of some file systems begin with a slash.
    top = root.strip("/") or "."
    files = [e for e in entries if e.type == pa.fs.FileType.File]
    named = {os.path.relpath(e.path.lstrip("/"), top): e for e in files}
    names = sorted(n for n in named if not any(part.startswith(".") for part in n.split("/")))
    places = {n: uri if single else join_uri(uri, n) for n in names}
    photos = [n for n in names if Path(n).suffix.lower() in IMAGE_SUFFIXES]
    tables = [n for n in names if n.lower().endswith(".parquet")]
    if not photos and tables:
        return _from_parquet([places[n] for n in tables], uri, column, row_fields)
    if not photos and single:
        photos = names
    if not photos:
        raise UserError(f"{redact(uri)}: no image and no Parquet file there")
    found = [named[n] for n in photos]
    facts = [(e.size if e.size is not None else -1, e.mtime_ns or 0) for e in found]
    return Source("uri", uri, _table(photos, [places[n] for n in photos], facts), {})


# --- Parquet --------------------------------------------------------------------------------


def _from_parquet(
    files: list[str], name: str, column: str | None, row_fields: Sequence[str]
) -> Source:
    parts: list[pa.Table] = []
    columns: dict[str, list[Any]] = {}
    image: str | None = None
    for position, file in enumerate(files):
        with open_parquet(file) as table:
            schema = table.schema_arrow
            chosen, is_bytes = _image_column(schema, file, column)
            if position and (image is not None) != is_bytes:
                raise UserError(f"{file}: column {chosen!r} has another type than in {files[0]}")
            image = chosen if is_bytes else None
            parts.append(_rows(table, file, chosen, is_bytes, len(files) > 1))
            for field in row_fields:
                if field in schema.names:
                    have = columns.setdefault(field, [None] * sum(len(p) for p in parts[:-1]))
                    have += table.read([field]).column(0).to_pylist()
        total = sum(len(p) for p in parts)
        for values in columns.values():
            values += [None] * (total - len(values))
    listing = pa.concat_tables(parts)
    if not listing.num_rows:
        raise UserError(f"{name}: the Parquet input has no row")
    return Source("parquet", name, listing, columns, image, tuple(map(_absolute, files)))


def _beside(file: str, path: str) -> str:
    """The place that a Parquet file's row names; a relative one counts from the file's folder."""
    if URI.match(path) or os.path.isabs(path):  # noqa: PTH117
        return path
    return sibling_uri(file, path) if URI.match(file) else str(Path(file).parent / path)


def _absolute(place: str) -> str:
    return place if URI.match(place) else os.path.abspath(place)  # noqa: PTH100


def open_parquet(place: str) -> pq.ParquetFile:
    """A Parquet file at a path or URI. Raises UserError."""
    try:
        if not URI.match(place):
            return pq.ParquetFile(place)
        fs, path = file_system(place)
        return pq.ParquetFile(path, filesystem=fs)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{place}: not a Parquet file that can be read: {first_line(error)}"
        ) from None


def _image_column(schema: pa.Schema, file: str, wanted: str | None) -> tuple[str, bool]:
    """The column of photos and whether it holds bytes (else paths)."""

    def holds_bytes(name: str) -> bool:
        kind = schema.field(name).type
        if pa.types.is_struct(kind):  # {bytes, path}, as Hugging Face datasets store images
            return any(f.name == "bytes" for f in kind)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    def holds_text(name: str) -> bool:
        kind = schema.field(name).type
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))

    if wanted is not None:
        if wanted not in schema.names:
            raise UserError(f"{file}: no column {wanted!r}; there are {', '.join(schema.names)}")
        if not (holds_bytes(wanted) or holds_text(wanted)):
            raise UserError(
                f"{file}: column {wanted!r} is {schema.field(wanted).type}; it must hold encoded "
                "images (binary) or paths (string)"
            )
        return wanted, holds_bytes(wanted)
    for names, fits in ((BYTES_COLUMNS, holds_bytes), (PATH_COLUMNS, holds_text)):
        for name in names:
            if name in schema.names and fits(name):
                return name, fits is holds_bytes
    raise UserError(
        f"{file}: no column of images (one of {', '.join(BYTES_COLUMNS)} with bytes, or one of "
        f"{', '.join(PATH_COLUMNS)} with paths); there are {', '.join(schema.names)}; name it "
        "with --image-column"
    )


def _rows(table: pq.ParquetFile, file: str, column: str, is_bytes: bool, several: bool) -> pa.Table:
    groups = [table.metadata.row_group(g).num_rows for g in range(table.metadata.num_row_groups)]
    at = [(g, r) for g, rows in enumerate(groups) for r in range(rows)]
    prefix = Path(file).stem + "/" if several else ""
    if not is_bytes:
        paths = [p or "" for p in table.read([column]).column(0).to_pylist()]
        places = [_beside(file, p) for p in paths]
        keys = [
            prefix + (re.sub(URI, "", p).lstrip("/") or f"{i:06d}") for i, p in enumerate(paths)
        ]
        facts = [_facts(p) for p in places]
        return _table(keys, [_absolute(p) for p in places], facts)
    schema = table.schema_arrow
    named = next(
        (
            n
            for n in KEY_COLUMNS
            if n in schema.names
            and n != column
            and (
                pa.types.is_string(schema.field(n).type)
                or pa.types.is_integer(schema.field(n).type)
            )
        ),
        None,
    )
    values = table.read([named]).column(0).to_pylist() if named else [None] * len(at)
    keys = [prefix + (f"{i:06d}" if v in (None, "") else str(v)) for i, v in enumerate(values)]
    return _table(keys, [_absolute(file)] * len(at), [_facts(file)] * len(at), at)


# --- Reading --------------------------------------------------------------------------------


def read_photo(place: str) -> bytes:
    """The bytes of a photo in a file of its own. Raises ImageError."""
    if not URI.match(place):
        return read_image_file(place, MAX_BYTES)
    try:
        fs, path = file_system(place)
        info = fs.get_file_info(path)
        if info.type == pa.fs.FileType.NotFound:
            raise ImageError(place, "no such file")
        if info.size is not None and info.size > MAX_BYTES:
            raise ImageError(place, f"{info.size:,} bytes; at most {MAX_BYTES:,} are allowed")
        with fs.open_input_stream(path) as stream:
            data: bytes = stream.read()
            return data
    except UserError as error:
        reason = getattr(error, "reason", str(error))
    except (OSError, pa.ArrowException) as error:
        reason = first_line(error)
    raise ImageError(place, reason)


def read_group(
    place: str, group: int, column: str | None, wanted: Sequence[int], batch: int = 16
) -> Iterator[tuple[int, bytes | None]]:
    """(row, bytes) of some rows of a row group, in order; a few rows in memory at a time."""
    rows, last = set(wanted), max(wanted)
    start = 0
    with open_parquet(place) as table:
        for part in table.iter_batches(batch, row_groups=[group], columns=[column]):
            if start > last:
                return
            for i in range(part.num_rows):
                if start + i in rows:
                    value = part.column(0)[i].as_py()
                    yield start + i, value.get("bytes") if isinstance(value, dict) else value
            start += part.num_rows

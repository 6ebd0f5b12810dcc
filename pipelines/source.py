"""Lists and reads the photos of a corpus: folder, glob, list, photo, Parquet, or a URI of these.

A listing has one row per photo: its key, the location of its bytes, size and modification time.
This module decodes no image.
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


@dataclass(frozen=True)
class Source:
    """A corpus.

    kind: "folder", "glob", "list", "photo", "uri" or "parquet". Of a Parquet input: columns: its
    mix fields, by row; image_column: its column of image bytes, or None if it holds paths; tables:
    its files, in order. folder: where the keys start, as the input was given; "" where the keys
    are paths themselves.
    """

    kind: str
    listing: pa.Table
    columns: dict[str, list[Any]]
    image_column: str | None = None
    tables: tuple[str, ...] = ()
    folder: str = ""

    @property
    def count(self) -> int:
        return int(self.listing.num_rows)


def open_source(
    given: str | os.PathLike[str],
    *,
    column: str | None = None,
    row_fields: Sequence[str] = (),
) -> Source:
    """List the photos of an input.

    column: of a Parquet input, the column with image bytes or paths; default: found by its name.
    row_fields: columns of a Parquet input to read into ``Source.columns``. Raises UserError.
    """
    text = os.fspath(given)
    if URI.match(text):
        return _from_uri(text, column, row_fields)
    path = Path(text)
    if path.is_dir():
        tables = sorted(p for p in path.rglob("*.parquet") if not _hidden(p, path))
        photos = (p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if tables and all(_hidden(p, path) for p in photos):
            return _from_parquet([str(p) for p in tables], text, column, row_fields)
        return _files("folder", find_images(path), path)
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix == ".parquet":
            return _from_parquet([text], text, column, row_fields)
        if suffix in (".txt", ".lst"):
            return _from_list(path)
        return _files("photo", [path], path.parent)
    if glob.has_magic(text):
        return _from_glob(text, column, row_fields)
    raise UserError(f"{text}: no such folder, photo, list (.txt) or Parquet file; check the path")


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _from_glob(pattern: str, column: str | None, row_fields: Sequence[str]) -> Source:
    found = [Path(p) for p in sorted(glob.glob(pattern, recursive=True)) if Path(p).is_file()]  # noqa: PTH207
    tables = [p for p in found if p.suffix.lower() == ".parquet"]
    if tables and len(tables) == len(found):
        return _from_parquet([str(p) for p in tables], pattern, column, row_fields)
    photos = [p for p in found if p.suffix.lower() in IMAGE_SUFFIXES]
    if not photos:
        raise UserError(f"{pattern}: no photo matches (quote the pattern; ** goes into folders)")
    # Keys are relative to the pattern's longest prefix without wildcards.
    fixed = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    return _files("glob", photos, Path(os.path.dirname(fixed) or "."))  # noqa: PTH120


def _from_list(path: Path) -> Source:
    """A file of paths (relative to its folder) or URIs; blank lines and # comments are skipped."""
    lines = [os.fsdecode(line.strip()) for line in path.read_bytes().splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"{path}: the list is empty; write one path per line")
    locations = [line if URI.match(line) else str(path.parent / line) for line in lines]
    keys = [re.sub(URI, "", line) for line in lines]
    if any(Path(k).is_absolute() for k in keys):
        keys = _below_common(keys)
    return _listed("list", keys, locations)


def _below_common(keys: list[str]) -> list[str]:
    absolute = [k for k in keys if Path(k).is_absolute()]
    common = os.path.commonpath([str(Path(k).parent) for k in absolute])
    return [os.path.relpath(k, common) if Path(k).is_absolute() else k for k in keys]


def _files(kind: str, paths: Sequence[Path], root: Path) -> Source:
    keys = [os.path.relpath(p, root) for p in paths]
    folder = "" if root == Path() else str(root)
    return _listed(kind, keys, [str(p) for p in paths], folder)


def _listed(kind: str, keys: Sequence[str], locations: Sequence[str], folder: str = "") -> Source:
    resolved = [_absolute(p) for p in locations]
    stats = [_size_and_mtime(p) for p in resolved]
    return Source(kind, _listing_table(keys, resolved, stats), {}, folder=folder)


def _size_and_mtime(location: str) -> tuple[int, int]:
    """Size and modification time; (-1, 0) for a URI or a missing file, which fails when read."""
    if URI.match(location):
        return -1, 0
    try:
        found = os.stat(location)  # noqa: PTH116  # undecodable names, many files
    except (OSError, ValueError):
        return -1, 0
    return found.st_size, found.st_mtime_ns


def _listing_table(
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


# --- URIs -----------------------------------------------------------------------------------


def _from_uri(uri: str, column: str | None, row_fields: Sequence[str]) -> Source:
    try:
        fs, path = file_system(uri)
        info = fs.get_file_info(path)
        if info.type == pa.fs.FileType.NotFound:
            raise UserError(f"{redact(uri)}: no such file or folder")
        single = info.type == pa.fs.FileType.File
        entries = [info] if single else fs.get_file_info(pa.fs.FileSelector(path, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{redact(uri)}: {first_line(error)}") from None
    root = os.path.dirname(path) if single else path  # noqa: PTH120
    # Paths of some file systems begin with a slash.
    top = root.strip("/") or "."
    files = {
        os.path.relpath(e.path.lstrip("/"), top): e
        for e in entries
        if e.type == pa.fs.FileType.File
    }
    names = sorted(n for n in files if not any(part.startswith(".") for part in n.split("/")))
    locations = {n: uri if single else join_uri(uri, n) for n in names}
    photos = [n for n in names if Path(n).suffix.lower() in IMAGE_SUFFIXES]
    tables = [n for n in names if n.lower().endswith(".parquet")]
    if not photos and tables:
        return _from_parquet([locations[n] for n in tables], uri, column, row_fields)
    if not photos and single:
        photos = names
    if not photos:
        raise UserError(f"{redact(uri)}: no image and no Parquet file found")
    found = [files[n] for n in photos]
    stats = [(e.size if e.size is not None else -1, e.mtime_ns or 0) for e in found]
    shown = redact(uri)
    folder = os.path.dirname(shown) if single else shown  # noqa: PTH120
    return Source(
        "uri", _listing_table(photos, [locations[n] for n in photos], stats), {}, folder=folder
    )


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
                raise UserError(f"{file}: column {chosen!r} has another type in {files[0]}")
            image = chosen if is_bytes else None
            parts.append(_list_rows(table, file, chosen, is_bytes, len(files) > 1))
            for field in row_fields:
                if field in schema.names:
                    values = columns.setdefault(field, [None] * sum(len(p) for p in parts[:-1]))
                    values += table.read([field]).column(0).to_pylist()
        total = sum(len(p) for p in parts)
        for values in columns.values():
            values += [None] * (total - len(values))
    listing = pa.concat_tables(parts)
    if not listing.num_rows:
        raise UserError(f"{name}: the Parquet input has no row")
    return Source("parquet", listing, columns, image, tuple(map(_absolute, files)))


def _resolve(file: str, path: str) -> str:
    """The location of a path in a Parquet file; relative paths start at the file's folder."""
    if URI.match(path) or os.path.isabs(path):  # noqa: PTH117
        return path
    return sibling_uri(file, path) if URI.match(file) else str(Path(file).parent / path)


def _absolute(location: str) -> str:
    return location if URI.match(location) else os.path.abspath(location)  # noqa: PTH100


def open_parquet(location: str) -> pq.ParquetFile:
    """Open a Parquet file at a path or URI. Raises UserError."""
    try:
        if not URI.match(location):
            return pq.ParquetFile(location)
        fs, path = file_system(location)
        return pq.ParquetFile(path, filesystem=fs)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{location}: not a readable Parquet file: {first_line(error)}") from None


def _image_column(schema: pa.Schema, file: str, wanted: str | None) -> tuple[str, bool]:
    """The column of photos, and whether it holds bytes (else paths)."""

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
            raise UserError(
                f"{file}: no column {wanted!r}; the columns are {', '.join(schema.names)}"
            )
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
        f"{', '.join(PATH_COLUMNS)} with paths); the columns are {', '.join(schema.names)}; "
        "choose one with --image-column"
    )


def _list_rows(
    table: pq.ParquetFile, file: str, column: str, is_bytes: bool, several: bool
) -> pa.Table:
    """The listing of a Parquet file. several: the input has other files; keys name the file."""
    groups = [table.metadata.row_group(g).num_rows for g in range(table.metadata.num_row_groups)]
    positions = [(g, r) for g, rows in enumerate(groups) for r in range(rows)]
    prefix = Path(file).stem + "/" if several else ""
    if not is_bytes:
        paths = [p or "" for p in table.read([column]).column(0).to_pylist()]
        locations = [_absolute(_resolve(file, p)) for p in paths]
        keys = [
            prefix + (re.sub(URI, "", p).lstrip("/") or f"{i:06d}") for i, p in enumerate(paths)
        ]
        return _listing_table(keys, locations, [_size_and_mtime(p) for p in locations])
    usable = {
        f.name
        for f in table.schema_arrow
        if f.name != column and (pa.types.is_string(f.type) or pa.types.is_integer(f.type))
    }
    values: list[Any] = [None] * len(positions)
    if key_columns := [name for name in KEY_COLUMNS if name in usable]:
        values = table.read(key_columns[:1]).column(0).to_pylist()
    keys = [prefix + (f"{i:06d}" if v in (None, "") else str(v)) for i, v in enumerate(values)]
    stats = [_size_and_mtime(file)] * len(keys)
    return _listing_table(keys, [_absolute(file)] * len(keys), stats, positions)


# --- Reading --------------------------------------------------------------------------------


def read_photo(location: str) -> bytes:
    """The bytes of an image file at a path or URI. Raises ImageError."""
    if not URI.match(location):
        return read_image_file(location, MAX_BYTES)
    try:
        fs, path = file_system(location)
        info = fs.get_file_info(path)
        if info.type == pa.fs.FileType.NotFound:
            raise ImageError(location, "no such file")
        if info.size is not None and info.size > MAX_BYTES:
            raise ImageError(location, f"{info.size:,} bytes; at most {MAX_BYTES:,} are allowed")
        with fs.open_input_stream(path) as stream:
            data: bytes = stream.read()
            return data
    except UserError as error:
        reason = getattr(error, "reason", str(error))
    except (OSError, pa.ArrowException) as error:
        reason = first_line(error)
    raise ImageError(location, reason)


def read_group(
    location: str, group: int, column: str | None, wanted: Sequence[int], batch: int = 16
) -> Iterator[tuple[int, bytes | None]]:
    """(row, bytes) of the wanted rows of a row group, in order; ``batch`` rows in memory at a time.

    Null rows yield None. Raises UserError.
    """
    rows, last = set(wanted), max(wanted)
    start = 0
    with open_parquet(location) as table:
        for part in table.iter_batches(batch, row_groups=[group], columns=[column]):
            if start > last:
                return
            for i in range(part.num_rows):
                if start + i in rows:
                    value = part.column(0)[i].as_py()
                    yield start + i, value.get("bytes") if isinstance(value, dict) else value
            start += part.num_rows

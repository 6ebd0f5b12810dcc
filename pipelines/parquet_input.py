"""Parquet inputs of a corpus: rows with the bytes of images, or with their paths."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from factory.core.object_store import StoreError
from factory.core.uris import URI, file_system, first_line, sibling_uri
from osasis.errors import UserError
from pipelines.photo_bytes import is_refusal
from pipelines.photo_listing import (
    absolute,
    listing_table,
    mask_table,
    masks_at,
    size_and_mtime,
)

BYTES_COLUMNS = ("image", "bytes", "photo", "content", "img")
PATH_COLUMNS = ("path", "file", "file_name", "filename", "image_path", "uri")
MASK_COLUMN = "mask"
KEY_COLUMNS = ("key", "name", *PATH_COLUMNS, "id", "__key__")


@dataclass(frozen=True)
class ParquetPhotos:
    """The photos of Parquet files.

    columns: values of the wanted columns, by row. image_column, mask_column: the columns of image
    bytes, or None if the files hold paths. masks: a ``mask_table``; None without a column ``mask``.
    """

    listing: pa.Table
    columns: dict[str, list[Any]]
    image_column: str | None
    masks: pa.Table | None = None
    mask_column: str | None = None


def list_parquet(
    files: list[str], name: str, column: str | None, row_fields: Sequence[str]
) -> ParquetPhotos:
    """List the photos of Parquet files. See ``open_source``. Raises UserError."""
    parts: list[pa.Table] = []
    columns: dict[str, list[Any]] = {}
    image: str | None = None
    masks: list[tuple[pa.Table, bool] | None] = []
    for position, file in enumerate(files):
        with open_parquet(file) as table:
            schema = table.schema_arrow
            chosen, is_bytes = _image_column(schema, file, column)
            if position and (image is not None) != is_bytes:
                raise UserError(f"{file}: column {chosen!r} has another type in {files[0]}")
            image = chosen if is_bytes else None
            parts.append(_list_rows(table, file, chosen, is_bytes, len(files) > 1))
            masks.append(_list_masks(table, file, is_bytes))
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
    found = [m for m in masks if m is not None]
    if not found:
        return ParquetPhotos(listing, columns, image)
    if len(found) < len(masks) or len({in_table for _, in_table in found}) > 1:
        raise UserError(f"{name}: its files have no column {MASK_COLUMN!r} of one type; they must")
    in_table = found[0][1]
    table = pa.concat_tables(m for m, _ in found)
    return ParquetPhotos(listing, columns, image, table, MASK_COLUMN if in_table else None)


def _resolve(file: str, path: str) -> str:
    """The location of a path in a Parquet file; relative paths start at the file's folder."""
    if URI.match(path) or os.path.isabs(path):  # noqa: PTH117
        return path
    return sibling_uri(file, path) if URI.match(file) else str(Path(file).parent / path)


def open_parquet(location: str) -> pq.ParquetFile:
    """Open a Parquet file at a path or URI. Raises UserError, and StoreError as ``read_photo``."""
    try:
        if not URI.match(location):
            return pq.ParquetFile(location)
        fs, path = file_system(location)
        return pq.ParquetFile(path, filesystem=fs)
    except (OSError, pa.ArrowException) as error:
        refused = is_refusal(error, location)
        raise (StoreError if refused else UserError)(
            f"{location}: not a readable Parquet file: {first_line(error)}"
        ) from None


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of a column's values, whatever the layout: dictionary, view and large types hold
    the same text or bytes as plain ones."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if (
        pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    ):
        return pa.binary()
    return kind


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):  # {bytes, path}, as Hugging Face datasets store images
        return any(f.name == "bytes" for f in kind)
    return bool(pa.types.is_binary(plain_type(kind)))


def _has_paths(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and any(f.name == "path" and _holds_text(f.type) for f in kind)


def _name(path: str) -> str:
    """The name of outputs of a photo at a path or URI."""
    return re.sub(URI, "", path).lstrip("/")


def _holds_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(plain_type(kind)))


def _image_column(schema: pa.Schema, file: str, wanted: str | None) -> tuple[str, bool]:
    """The column of photos, and whether it holds bytes (else paths)."""
    if wanted is not None and wanted not in schema.names:
        raise UserError(f"{file}: no column {wanted!r}; the columns are {', '.join(schema.names)}")
    if wanted is not None:
        kind = schema.field(wanted).type
        if not (_holds_bytes(kind) or _holds_text(kind)):
            raise UserError(f"{file}: {_refused(schema, wanted)}")
        return wanted, _holds_bytes(kind)
    for names, fits in ((BYTES_COLUMNS, _holds_bytes), (PATH_COLUMNS, _holds_text)):
        for name in names:
            if name in schema.names and fits(schema.field(name).type):
                return name, fits is _holds_bytes
    for name in (*BYTES_COLUMNS, *PATH_COLUMNS):
        if name in schema.names:
            raise UserError(f"{file}: {_refused(schema, name)}")
    raise UserError(
        f"{file}: no column of images (one of {', '.join(BYTES_COLUMNS)} with bytes, or one of "
        f"{', '.join(PATH_COLUMNS)} with paths); the columns are {', '.join(schema.names)}; "
        "choose one with --image-column"
    )


def _refused(schema: pa.Schema, name: str) -> str:
    return (
        f"column {name!r} is {schema.field(name).type}; it must hold encoded images (binary) or "
        "paths (string); convert it, or choose another column with --image-column"
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
        locations = [absolute(_resolve(file, p)) for p in paths]
        keys = [prefix + (_name(p) or f"{i:06d}") for i, p in enumerate(paths)]
        return listing_table(keys, locations, [size_and_mtime(p) for p in locations])
    usable = {
        f.name
        for f in table.schema_arrow
        if f.name != column and (_holds_text(f.type) or pa.types.is_integer(plain_type(f.type)))
    }
    values: list[Any] = [None] * len(positions)
    if key_columns := [name for name in KEY_COLUMNS if name in usable]:
        values = table.read(key_columns[:1]).column(0).to_pylist()
    elif _has_paths(table.schema_arrow.field(column).type):
        images = table.read([f"{column}.path"]).column(0).to_pylist()
        values = [_name((image or {}).get("path") or "") for image in images]
    keys = [prefix + (f"{i:06d}" if v in (None, "") else str(v)) for i, v in enumerate(values)]
    stats = [size_and_mtime(file)] * len(keys)
    return listing_table(keys, [absolute(file)] * len(keys), stats, positions)


def _list_masks(
    table: pq.ParquetFile, file: str, photos_in_table: bool
) -> tuple[pa.Table, bool] | None:
    """The ``mask_table`` of a file's column of masks, and whether the column holds their bytes."""
    if MASK_COLUMN not in table.schema_arrow.names:
        return None
    kind = table.schema_arrow.field(MASK_COLUMN).type
    if _holds_bytes(kind) and photos_in_table:
        nothing = [None] * table.metadata.num_rows
        return mask_table(nothing, [(None, None)] * len(nothing), nothing), True
    if not _holds_text(kind):
        allowed = "paths or encoded images" if photos_in_table else "paths, as the photos are"
        raise UserError(
            f"{file}: column {MASK_COLUMN!r} is {kind}; the mask of each photo must be {allowed}; "
            "convert it, or rename the column if it holds something else"
        )
    paths = table.read([MASK_COLUMN]).column(0).to_pylist()
    places = [_resolve(file, path) if path else None for path in paths]
    return masks_at(places, f"the row's {MASK_COLUMN} is null"), False


def read_group(
    location: str, group: int, columns: Sequence[str], wanted: Sequence[int], batch: int = 16
) -> Iterator[tuple[int, list[bytes | str | None]]]:
    """(row, bytes in each column) of the wanted rows of a row group, in order.

    ``batch`` rows are in memory at a time. A value with a path instead of bytes is the location of
    its file, and a null None. Raises UserError.
    """
    rows, last = set(wanted), max(wanted)
    start = 0
    with open_parquet(location) as table:
        for part in table.iter_batches(batch, row_groups=[group], columns=list(columns)):
            if start > last:
                return
            for i in range(part.num_rows):
                if start + i in rows:
                    yield start + i, [_photo(part[name][i].as_py(), location) for name in columns]
            start += part.num_rows


def _photo(value: Any, file: str) -> bytes | str | None:
    """A row's bytes, or else the location of its file."""
    if not isinstance(value, dict):
        return value
    data, path = value["bytes"], value.get("path")
    return _resolve(file, path) if not data and isinstance(path, str) and path else data

"""Lists the photos of a corpus: folder, glob, list, photo, Parquet, or a URI of these.

A listing has one row per photo: its key, the location of its bytes, size and modification time.
This module decodes no image.
"""

from __future__ import annotations

import mimetypes
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs

from factory.core.text_files import existing_location, read_text, text_lines
from factory.core.uris import (
    QUERY_HINT,
    URI,
    check_no_password,
    file_system,
    first_line,
    is_local_uri,
    join_uri,
    local_path,
    redact,
    relative,
)
from osasis.errors import UserError
from osasis.images.decoding import reads_kind
from osasis.images.kinds import HEAD_BYTES, kind_of_file
from osasis.images.listing import (
    IMAGE_SUFFIXES,
    ReadHead,
    images_among,
    no_image,
    skipped_part,
    suffix_of,
    walk_files,
)
from pipelines.globs import explain_brackets, is_pattern, matching_files
from pipelines.parquet_input import list_parquet
from pipelines.photo_listing import absolute, listing_table, masks_at, size_and_mtime

PARQUET = ".parquet"


@dataclass(frozen=True)
class Source:
    """A corpus.

    kind: "folder", "glob", "list", "photo", "uri" or "parquet". left_out: files that are not read,
    counted by kind. folder: where the keys start, as the input was given; "" where the keys are
    paths themselves. masks: a ``mask_table``, where each photo has a mask of its own. Of a Parquet
    input: columns: its mix fields, by row; image_column, mask_column: its columns of image bytes,
    or None if it holds paths; tables: its files, in order.
    """

    kind: str
    listing: pa.Table
    columns: dict[str, list[Any]] = field(default_factory=dict)
    image_column: str | None = None
    tables: tuple[str, ...] = ()
    left_out: Counter[str] = field(default_factory=Counter)
    folder: str = ""
    masks: pa.Table | None = None
    mask_column: str | None = None

    @property
    def count(self) -> int:
        return int(self.listing.num_rows)


@dataclass(frozen=True)
class _Input:
    """What the user gave. shown: its name in errors. skip: a folder that is no part of it."""

    shown: str
    column: str | None
    row_fields: Sequence[str]
    skip: str | None

    def parquet(self, files: list[str], left_out: Counter[str] | None = None) -> Source:
        found = list_parquet(files, self.shown, self.column, self.row_fields)
        return Source(
            "parquet", found.listing, found.columns, found.image_column,
            tuple(map(absolute, files)), left_out or Counter(), masks=found.masks,
            mask_column=found.mask_column,
        )  # fmt: skip


def open_source(
    given: str | os.PathLike[str],
    *,
    column: str | None = None,
    row_fields: Sequence[str] = (),
    skip: str | os.PathLike[str] | None = None,
) -> Source:
    """List the photos of an input.

    column: of a Parquet input, the column with image bytes or paths; default: found by its name.
    row_fields: columns of a Parquet input to read into ``Source.columns``. skip: a folder that is
    not listed, such as the output where a link of the input leads to it. Raises UserError.
    """
    text = os.fspath(given)
    what = _Input(redact(text), column, row_fields, os.fspath(skip) if skip is not None else None)
    if is_local_uri(text):
        local = local_path(text)
        if os.path.isdir(local):  # noqa: PTH112  # False for names that are too long
            return _from_folder(Path(local), what, uri=text)
        if os.path.isfile(local):  # noqa: PTH113
            return _from_file(Path(local), what, uri=text)
        raise UserError(f"{what.shown}: no such file or folder")
    if URI.match(text):
        return _from_uri(text, what)
    if os.path.isdir(text):  # noqa: PTH112
        return _from_folder(Path(text), what)
    if os.path.isfile(text):  # noqa: PTH113
        return _from_file(Path(text), what)
    if is_pattern(text):
        return _from_glob(text, what)
    if os.path.lexists(text):  # a pipe, a device, a link whose target is gone
        raise UserError(
            f"{text}: no regular file or folder; give a folder, photo, list (.txt) or Parquet file"
        )
    raise UserError(f"{text}: no such folder, photo, list (.txt) or Parquet file; check the path")


def _from_folder(root: Path, what: _Input, uri: str = "") -> Source:
    """The photos of a folder, or the rows of its Parquet files. uri: the folder as it was given."""
    left_out: Counter[str] = Counter()
    files = walk_files(root, left_out, what.skip)
    tables = [file for file in files if suffix_of(file) == PARQUET]
    photos = _photos(files, tables, left_out)
    if not photos and not tables:
        raise UserError(f"{what.shown}: no image and no Parquet file{no_image(left_out)}")
    if not photos and not uri:
        tables.sort(key=Path)
    chosen = photos or tables
    keys = [os.path.relpath(file, root) for file in chosen]
    locations = [join_uri(uri, key) for key in keys] if uri else chosen
    if not photos:
        return what.parquet(locations, left_out)
    place = redact(uri) if uri else str(root)
    folder = "" if root == Path() else place
    return _listed("uri" if uri else "folder", keys, locations, left_out, chosen, folder)


def _photos(
    files: Sequence[str],
    tables: Sequence[str],
    left_out: Counter[str],
    read_head: ReadHead | None = None,
) -> list[str]:
    """The photos among the files of a place; none where it is a place of Parquet files.

    It is one where it has Parquet files and no file with an image suffix.
    """
    if not tables or any(suffix_of(file) in IMAGE_SUFFIXES for file in files):
        return images_among(files, left_out, read_head)
    others = set(files).difference(tables)
    if images := images_among(others, left_out, read_head):
        left_out["image"] += len(images)
    return []


def _from_file(path: Path, what: _Input, uri: str = "") -> Source:
    """A Parquet file, a list or a photo. uri: the file as it was given."""
    location, suffix = uri or str(path), suffix_of(path.name)
    head = _head_of(path)
    if suffix == PARQUET or head.startswith(b"PAR1"):
        return what.parquet([location])
    if suffix in (".txt", ".lst") and not reads_kind(kind_of_file(head, suffix)):
        return _from_list(path)
    parent = os.path.dirname(redact(location))  # noqa: PTH120
    return _listed("uri" if uri else "photo", [path.name], [location], None, [str(path)], parent)


def _head_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:  # reported when the photo is read
        return b""


def _from_glob(pattern: str, what: _Input) -> Source:
    left_out: Counter[str] = Counter()
    found = matching_files(pattern, left_out, what.skip)
    tables = [file for file in found if suffix_of(file) == PARQUET]
    if tables and len(tables) == len(found):
        return what.parquet(tables)
    photos = images_among(found, left_out)
    if not photos:
        held = no_image(left_out) if found else ""
        raise UserError(
            f"{pattern}: no photo matches (quote the pattern; ** goes into folders)"
            f"{held}{explain_brackets(pattern)}"
        )
    # Keys are relative to the pattern's longest prefix without wildcards.
    fixed = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    root = os.path.dirname(fixed) or "."  # noqa: PTH120
    keys = [os.path.relpath(p, root) for p in photos]
    return _listed("glob", keys, photos, left_out, folder="" if root == "." else root)


def _from_list(path: Path) -> Source:
    """A file of paths (relative to its folder) or URIs; blank lines and # comments are skipped.

    A line may have the path of the photo's mask behind a tab.
    """
    lines = list(text_lines(read_text(path, "surrogateescape")))
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"{path}: the list is empty; write one path per line")
    masks = [line.partition("\t")[2].strip() for line in lines]
    lines = [existing_location(line.partition("\t")[0].strip(), path.parent) for line in lines]
    for line in [*lines, *masks]:
        check_no_password(line)
    locations = [line if URI.match(line) else str(path.parent / line) for line in lines]
    keys = [re.sub(URI, "", line) for line in lines]
    if any(Path(k).is_absolute() for k in keys):
        keys = _below_common(keys)
    listed = _listed("list", keys, locations)
    if not any(masks):
        return listed
    found = [existing_location(mask, path.parent) if mask else None for mask in masks]
    at = [m if m is None or URI.match(m) else str(path.parent / m) for m in found]
    return replace(listed, masks=masks_at(at, "the list names no mask of this photo"))


def _below_common(keys: list[str]) -> list[str]:
    absolute = [k for k in keys if Path(k).is_absolute()]
    common = os.path.commonpath([str(Path(k).parent) for k in absolute])
    return [os.path.relpath(k, common) if Path(k).is_absolute() else k for k in keys]


def _listed(
    kind: str,
    keys: Sequence[str],
    locations: Sequence[str],
    left_out: Counter[str] | None = None,
    paths: Sequence[str] | None = None,
    folder: str = "",
) -> Source:
    """paths: where the files of the locations are, if the locations are file:// URIs."""
    resolved = [absolute(p) for p in locations]
    stats = [size_and_mtime(p) for p in paths or resolved]
    return Source(
        kind, listing_table(keys, resolved, stats), left_out=left_out or Counter(), folder=folder
    )


# --- URIs -----------------------------------------------------------------------------------


def _from_uri(uri: str, what: _Input) -> Source:
    check_no_password(uri)
    try:
        fs, path = file_system(uri)
        info = fs.get_file_info(path)
        if info.type == pa.fs.FileType.NotFound:
            raise UserError(f"{what.shown}: no such file or folder{_explain_query(uri)}")
        single = info.type == pa.fs.FileType.File
        entries = [info] if single else fs.get_file_info(pa.fs.FileSelector(path, recursive=True))
        root = os.path.dirname(path) if single else path  # noqa: PTH120
        files = {relative(e.path, root): e for e in entries if e.type == pa.fs.FileType.File}
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{what.shown}: {first_line(error)}") from None
    except UnicodeError:
        raise UserError(
            f"{what.shown}: a name there is not UTF-8; rename it, or give the place as a path"
        ) from None
    skipped = {} if single else {n: part for n in files if (part := skipped_part(n)) is not None}
    left_out = Counter(skipped.values())
    names = sorted(n for n in files if n not in skipped)
    tables = [n for n in names if suffix_of(n) == PARQUET]
    photos = _photos(names, tables, left_out, _remote_head(fs, files)) if not single else names
    if single and tables:
        photos = []
    if not photos and not tables:
        raise UserError(f"{what.shown}: no image and no Parquet file{no_image(left_out)}")
    locations = [uri if single else join_uri(uri, n) for n in photos or tables]
    if not photos:
        return what.parquet(locations, left_out)
    found = [files[n] for n in photos]
    stats = [(e.size if e.size is not None else -1, e.mtime_ns or 0) for e in found]
    shown = redact(uri)
    folder = os.path.dirname(shown) if single else shown  # noqa: PTH120
    return Source("uri", listing_table(photos, locations, stats), left_out=left_out, folder=folder)


def _explain_query(uri: str) -> str:
    if "?" not in uri:
        return ""
    return QUERY_HINT


def _remote_head(fs: pa.fs.FileSystem, files: Mapping[str, pa.fs.FileInfo]) -> ReadHead:
    """Reads the first bytes of a file by its name; raises OSError."""

    def read(name: str) -> bytes:
        # Each look is a request, so files whose suffix names another kind are not opened.
        kind = mimetypes.guess_type(name)[0]
        if kind is not None and not kind.startswith("image/"):
            return b"\0"
        try:
            with fs.open_input_stream(files[name].path) as stream:
                return bytes(stream.read(HEAD_BYTES))
        except Exception as error:  # every file system has errors of its own
            raise OSError(first_line(error)) from None

    return read

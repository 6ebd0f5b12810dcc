"""Catalogs by path or URI."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from factory.catalog.csv_files import read_csv
from factory.catalog.entries import CatalogEntry, id_from
from factory.catalog.parse import CatalogContent
from factory.catalog.read import read_folder, read_image, read_yaml
from factory.core.uris import (
    base_name,
    check_no_password,
    is_local_uri,
    is_uri,
    list_images,
    local_path,
    read_bytes,
    redact,
    sibling_uri,
)
from osasis.errors import UserError
from osasis.images.listing import is_image

YAML, CSV = (".yaml", ".yml", ".json"), (".csv", ".tsv")


def read_catalog(
    location: str | Path, report: Callable[[str], None] | None = None
) -> CatalogContent:
    """The entries and problems of a catalog.

    report: called with one line about files of a folder that are left out. Raises UserError where
    the location is no catalog.
    """
    text = str(location)
    if is_uri(text) and not is_local_uri(text):
        return _read_remote(text)
    path = Path(local_path(text) if is_uri(text) else text)
    suffix = path.suffix.lower()
    if path.is_dir():
        return read_folder(path, report)
    if suffix in YAML:
        return read_yaml(path)
    if suffix in CSV:
        return read_csv(path)
    if path.is_file() and is_image(path):
        return read_image(path)
    raise UserError(
        f"{path}: not a catalog; give a YAML, JSON or CSV file, a folder of images, or an image"
    )


def _read_remote(uri: str) -> CatalogContent:
    """A catalog file, or else the images below a URI."""
    check_no_password(uri)
    if Path(base_name(uri)).suffix.lower() not in YAML + CSV:
        shown = redact(uri)
        images = list_images(uri)
        return CatalogContent([CatalogEntry(id_from(i), i, file=shown) for i in images], [])
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / base_name(uri)
        copy.write_bytes(read_bytes(uri))
        try:
            return _moved(read_catalog(copy), copy, uri)
        except UserError as e:
            raise UserError(str(e).replace(str(copy), redact(uri))) from None


def _moved(content: CatalogContent, copy: Path, uri: str) -> CatalogContent:
    """The content of a copy as that of the file at a URI, whose relative paths are beside it."""
    start, shown = f"{copy.parent}/", redact(uri)

    def place(location: str) -> str:
        if not location.startswith(start):
            return location
        return _beside(uri, location.removeprefix(start))

    entries = [
        replace(
            e,
            image=place(e.image),
            counterpart=place(e.counterpart) if e.counterpart else None,
            file=shown,
        )
        for e in content.entries
    ]
    problems = [
        replace(p, file=shown, message=p.message.replace(str(copy), shown))
        for p in content.problems
    ]
    return CatalogContent(entries, problems, content.gate)


def _beside(uri: str, relative: str) -> str:
    """The URI of a path relative to the folder of the file at ``uri``."""
    relative = posixpath.normpath(relative)
    while relative.startswith("../"):
        uri, relative = uri.rpartition("/")[0], relative.removeprefix("../")
    return sibling_uri(uri, relative)

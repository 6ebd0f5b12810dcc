"""A catalog read and checked: every problem at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.catalog.entries import CatalogEntry, CatalogError, CatalogProblem, run_settings
from factory.catalog.read import read_csv, read_folder, read_image, read_yaml
from factory.core.bases import NAME
from factory.core.uris import read_bytes
from osasis.errors import ImageError, UserError
from osasis.images.decoding import IMAGE_SUFFIXES, load_image
from osasis.validation import InvalidInputError

# Returns the bytes of a path or URI; raises UserError.
ReadBytes = Callable[[str], bytes]
# Images are read this many at a time: those behind URIs mostly wait.
READERS = 8


@dataclass(frozen=True)
class Catalog:
    """A catalog as read. problems: all that is wrong with it. gate: conditions that its file
    sets for ``champion``."""

    path: str
    entries: tuple[CatalogEntry, ...]
    problems: tuple[CatalogProblem, ...]
    gate: tuple[str, ...] = ()


def load_catalog(
    path: Path, preset: str, overrides: dict[str, Any], read: ReadBytes = read_bytes
) -> Catalog:
    """Read a catalog that is to be run. Raises CatalogError with every problem.

    Whether an image can be decoded is found out when its style is trained: one broken image
    fails one style. read: reads images; a run keeps the bytes.
    """
    catalog = check_catalog(path, preset, overrides, decode=False, read=read)
    if catalog.problems:
        raise CatalogError(catalog.path, catalog.problems)
    return catalog


def check_catalog(
    path: Path,
    preset: str,
    overrides: dict[str, Any],
    *,
    decode: bool = True,
    read: ReadBytes = read_bytes,
) -> Catalog:
    """Read a catalog and find everything that is wrong with it.

    decode: decode every image too. Raises UserError where the catalog itself is missing, or the
    run's own settings are wrong.
    """
    run_settings(preset, overrides)  # what is wrong for the whole run is said once
    suffix = path.suffix.lower()
    if path.is_dir():
        entries, problems, gate = read_folder(path)
    elif suffix in (".yaml", ".yml"):
        entries, problems, gate = read_yaml(path)
    elif suffix == ".csv":
        entries, problems, gate = read_csv(path)
    elif path.is_file() and suffix in IMAGE_SUFFIXES:
        entries, problems, gate = read_image(path)
    else:
        raise UserError(
            f"{path}: no such catalog; give a YAML or CSV file, a folder of images, or an image"
        )
    problems += _id_problems(entries)
    problems += [p for e in entries for p in _setting_problems(e, preset, overrides)]
    problems += _image_problems(entries, decode, read)
    if not entries and not problems:
        problems.append(
            CatalogProblem(str(path), None, "the catalog is empty", "name a style image")
        )
    problems.sort(key=lambda p: (p.file, p.line or 0))
    return Catalog(str(path), tuple(entries), tuple(problems), tuple(gate))


def _id_problems(entries: list[CatalogEntry]) -> list[CatalogProblem]:
    problems = []
    seen: dict[str, CatalogEntry] = {}
    for entry in entries:
        if not NAME.fullmatch(entry.id):
            remedy = "use 1 to 63 of a-z, 0-9, '.', '-', '_', a letter or digit first"
            problems.append(entry.problem("id", f"id {entry.id!r} cannot be used", remedy))
        if entry.id in seen:
            what = f"id {entry.id!r} is already used by {seen[entry.id].where}"
            problems.append(entry.problem("id", what, "give one of them another id"))
        seen.setdefault(entry.id, entry)
    return problems


def _setting_problems(
    entry: CatalogEntry, preset: str, overrides: dict[str, Any]
) -> list[CatalogProblem]:
    """What is wrong with an entry's overrides, each at its own line."""
    try:
        entry.settings(preset, overrides)
    except InvalidInputError as e:
        return [
            CatalogProblem.of(
                p.below("overrides"),
                entry.file,
                entry.lines.get(f"overrides.{p.field}", entry.lines.get("overrides", entry.line)),
                "see the reference of training settings",
                entry.id,
            )
            for p in e.problems
        ]
    return []


def _image_problems(
    entries: list[CatalogEntry], decode: bool, read: ReadBytes
) -> list[CatalogProblem]:
    """Files that cannot be read, and images that would train one style twice."""
    problems: list[CatalogProblem] = []
    seen: dict[str, CatalogEntry] = {}
    with ThreadPoolExecutor(READERS) as pool:
        looked = list(pool.map(lambda e: _look(e, decode, read), entries))
    for entry, (found, content) in zip(entries, looked, strict=True):
        problems += found
        if content is None:
            continue
        if content in seen:
            what = f"the same image as {seen[content].where} ({seen[content].id!r})"
            remedy = "remove one, or give them different overrides or counterparts"
            problems.append(entry.problem("image", what, remedy))
        seen.setdefault(content, entry)
    return problems


def _look(
    entry: CatalogEntry, decode: bool, read: ReadBytes
) -> tuple[list[CatalogProblem], str | None]:
    """Problems of an entry's files, and what tells its training from another's."""
    problems, hashes = [], []
    for name, location in (("image", entry.image), ("counterpart", entry.counterpart)):
        if location is None:
            continue
        try:
            data = read(location)
        except UserError as e:
            remedy = "correct the path or URI, or remove the entry"
            problems.append(entry.problem(name, f"{name} {e}", remedy, location))
            continue
        hashes.append(hashlib.sha256(data).hexdigest())
        if decode:
            try:
                load_image(data, name=location)
            except ImageError as e:
                problems.append(entry.problem(name, f"{name} {e}", "replace the file", location))
    if problems:
        return problems, None
    return problems, json.dumps([hashes, entry.overrides], sort_keys=True, default=str)

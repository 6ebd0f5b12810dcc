"""Reads a catalog and reports all of its problems at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.catalog.entries import (
    CatalogEntry,
    CatalogError,
    CatalogProblem,
    run_settings,
)
from factory.catalog.remote import read_catalog
from factory.core.bases import NAME, NAME_RULE
from factory.core.endpoints import EndpointError
from factory.core.uris import read_bytes, redact
from factory.methods import Method, find_method
from factory.registry.gate import Condition
from osasis.bundles.files import DEFAULT_METHOD
from osasis.errors import ImageError, UserError
from osasis.images.decoding import load_image
from osasis.validation import InvalidInputError

# Returns the bytes of a path or URI; raises UserError.
ReadBytes = Callable[[str], bytes]
# Concurrent reads of images; a read from a URI mostly waits for the network.
READ_THREADS = 8


@dataclass(frozen=True)
class Catalog:
    """A parsed catalog. gate: conditions for a style to become champion."""

    path: str
    entries: tuple[CatalogEntry, ...]
    problems: tuple[CatalogProblem, ...]
    gate: tuple[Condition, ...] = ()


def load_catalog(
    path: str | Path,
    preset: str,
    overrides: dict[str, Any],
    read: ReadBytes = read_bytes,
    report: Callable[[str], None] | None = None,
    method: Method | None = None,
) -> Catalog:
    """Read the catalog of a run. Raises CatalogError with all problems.

    Images are not decoded: a run reports a broken image as the failure of one style. read: reads
    an image; a run passes a caching function. report, method: see ``check_catalog``.
    """
    catalog = check_catalog(
        path, preset, overrides, decode=False, read=read, report=report, method=method
    )
    if catalog.problems:
        raise CatalogError(catalog.path, catalog.problems)
    return catalog


def check_catalog(
    path: str | Path,
    preset: str,
    overrides: dict[str, Any],
    *,
    decode: bool = True,
    read: ReadBytes = read_bytes,
    report: Callable[[str], None] | None = None,
    method: Method | None = None,
) -> Catalog:
    """Read a catalog by path or URI and collect its problems.

    decode: also decode each image. report: called with one line about files of a folder that are
    left out. method: of the base to train on; None: OSASIS. Raises UserError where ``path`` is not
    a catalog, or where the run's preset or overrides are invalid.
    """
    method = method or find_method(DEFAULT_METHOD)
    run_settings(method, preset, overrides)  # raises once for the run, not once per entry
    content = read_catalog(path, report)
    entries = content.entries
    problems = [*content.problems, *_id_problems(entries)]
    problems += [p for e in entries for p in _setting_problems(e, method, preset, overrides)]
    problems += _counterpart_problems(entries, method)
    problems += _image_problems(entries, decode, read)
    if not entries and not problems:
        problems.append(
            CatalogProblem(redact(str(path)), None, "the catalog is empty", "name a style image")
        )
    # A value that entries share by an alias is one problem.
    problems = list({(p.file, p.line, p.message): p for p in reversed(problems)}.values())[::-1]
    problems.sort(key=lambda p: (p.file, p.line or 0))
    return Catalog(redact(str(path)), tuple(entries), tuple(problems), content.gate)


def _id_problems(entries: list[CatalogEntry]) -> list[CatalogProblem]:
    problems = []
    seen: dict[str, CatalogEntry] = {}
    for entry in entries:
        if not NAME.fullmatch(entry.id):
            what = f"id {entry.id!r} cannot be used"
            problems.append(entry.problem("id", what, NAME_RULE, entry.id))
        if entry.id in seen:
            what = f"id {entry.id!r} is already used by {seen[entry.id].where}"
            problems.append(entry.problem("id", what, "give one of them another id", entry.id))
        seen.setdefault(entry.id, entry)
    return problems


def _setting_problems(
    entry: CatalogEntry, method: Method, preset: str, overrides: dict[str, Any]
) -> list[CatalogProblem]:
    """Problems of an entry's overrides, each with the line of its setting."""
    try:
        entry.settings(method, preset, overrides)
    except InvalidInputError as e:
        return [
            CatalogProblem.of(
                p, entry.file, entry.places, "see the reference of training settings", entry.id
            )
            for p in (p.with_prefix("overrides") for p in e.problems)
        ]
    return []


def _counterpart_problems(entries: list[CatalogEntry], method: Method) -> list[CatalogProblem]:
    return [
        e.problem(
            "counterpart",
            f"counterpart is {e.counterpart!r}, but styles of method {method.name} train on the "
            "style image alone",
            "leave it out",
            e.counterpart,
        )
        for e in entries
        if e.counterpart is not None and not method.models_photos
    ]


def _image_problems(
    entries: list[CatalogEntry], decode: bool, read: ReadBytes
) -> list[CatalogProblem]:
    """Problems of unreadable files, and of entries with equal images and overrides."""
    problems: list[CatalogProblem] = []
    seen: dict[str, CatalogEntry] = {}
    with ThreadPoolExecutor(READ_THREADS) as pool:
        checked = list(pool.map(lambda e: _check_files(e, decode, read), entries))
    for entry, (found, content) in zip(entries, checked, strict=True):
        problems += found
        if content is None:
            continue
        if content in seen:
            what = f"the same image as {seen[content].where} ({seen[content].id!r})"
            remedy = "remove one, or give them different overrides or counterparts"
            problems.append(entry.problem("image", what, remedy, entry.image))
        seen.setdefault(content, entry)
    return problems


def _check_files(
    entry: CatalogEntry, decode: bool, read: ReadBytes
) -> tuple[list[CatalogProblem], str | None]:
    """Problems of an entry's files, and a key that identifies its images and overrides."""
    problems, hashes = [], []
    for name, location in (("image", entry.image), ("counterpart", entry.counterpart)):
        if location is None:
            continue
        try:
            data = read(location)
        except EndpointError:
            raise  # once, and not for each image
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

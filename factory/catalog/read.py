"""Readers of catalogs: YAML and JSON files, folders of images, single images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from factory.catalog.entries import CatalogEntry, CatalogOptions, CatalogProblem, id_from
from factory.catalog.parse import CatalogContent, broken, parse_entry, parse_good_fields
from factory.core.yaml_files import YamlFileError, read_yaml_file
from osasis.images.listing import find_images


def read_folder(path: Path, report: Callable[[str], None] | None = None) -> CatalogContent:
    """One entry per image below a folder; ids are derived from file names.

    report: called with one line about files that are left out.
    """
    found = find_images(path, report)
    return CatalogContent([CatalogEntry(id_from(str(p)), str(p), file=str(p)) for p in found], [])


def read_image(path: Path) -> CatalogContent:
    """A single image as a catalog of one entry."""
    return CatalogContent([CatalogEntry(id_from(str(path)), str(path), file=str(path))], [])


def read_yaml(path: Path) -> CatalogContent:
    """Read a YAML or JSON file with a list ``styles`` of entries and an optional list ``gate``."""
    try:
        file = read_yaml_file(path)
    except YamlFileError as e:
        return broken(path, e.line, e.reason, e.remedy)
    styles = file.data.get("styles") if isinstance(file.data, dict) else None
    if not isinstance(styles, list):
        example = "write a list under 'styles:', such as `styles: [{image: a.png}]`"
        return broken(path, 1, "it has no list of styles", example)
    problems = [
        CatalogProblem(str(path), r.line, r.message, r.remedy, field=r.name) for r in file.repeated
    ]
    options, wrong = parse_good_fields(
        CatalogOptions, {k: v for k, v in file.data.items() if k != "styles" and v is not None}
    )
    places = file.places(2)
    problems += [
        CatalogProblem.of(p, str(path), places, _TOP_HELP.format(p.field), None) for p in wrong
    ]
    entries = []
    written = [*file.item_places("styles", 2)] or [{}] * len(styles)
    for item, at in zip(styles, written, strict=True):
        entry, found = parse_entry(path, item, at)
        problems += found
        if entry is not None:
            entries.append(entry)
    gate = options.gate if options is not None and not wrong else ()
    return CatalogContent(entries, problems, gate)


_TOP_HELP = (
    "a catalog has styles and gate; the name of a block that only holds an anchor begins with x-, "
    "such as x-{}"
)

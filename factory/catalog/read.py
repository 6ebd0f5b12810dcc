"""Readers of catalogs: YAML, CSV, folders of images, single images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from factory.catalog.entries import (
    FIELDS,
    CatalogEntry,
    CatalogOptions,
    CatalogProblem,
    EntryInput,
    id_from,
    line_of,
)
from factory.core.uris import locate
from factory.registry.gate import Condition
from osasis.errors import UserError, did_you_mean
from osasis.images.decoding import find_images
from osasis.settings import TrainSettings
from osasis.validation import InputModel, InvalidInputError, Problem

M = TypeVar("M", bound=InputModel)
SETTINGS = tuple(TrainSettings.model_fields)

# Levels of a catalog's YAML: document, list of styles, entry, overrides.
YAML_LEVELS = 4


class CatalogContent(NamedTuple):
    """What a reader returns: valid entries, problems, and conditions of the quality gate."""

    entries: list[CatalogEntry]
    problems: list[CatalogProblem]
    gate: tuple[Condition, ...] = ()


def read_folder(path: Path) -> CatalogContent:
    """One entry per image below a folder; ids are derived from file names."""
    found = find_images(path)
    return CatalogContent([CatalogEntry(id_from(str(p)), str(p), file=str(p)) for p in found], [])


def read_image(path: Path) -> CatalogContent:
    """A single image as a catalog of one entry."""
    return CatalogContent([CatalogEntry(id_from(str(path)), str(path), file=str(path))], [])


def read_yaml(path: Path) -> CatalogContent:
    """Read a YAML file with a list ``styles`` of entries and an optional list ``gate``."""
    text = _text(path)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        # Checked first: construct_document merges the keys of `<<` into their mappings.
        problems = _repeated_keys(path, node)
        data = loader.construct_document(node) if node is not None else None
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        line = mark.line + 1 if mark else None
        what = getattr(e, "problem", None) or str(e).splitlines()[0]
        return _broken(path, line, f"not valid YAML ({what})", "correct this line")
    styles = data.get("styles") if isinstance(data, dict) else None
    if node is None or not isinstance(data, dict) or not isinstance(styles, list):
        example = "write a list under 'styles:', such as `styles: [{image: a.png}]`"
        return _broken(path, 1, "it has no list of styles", example)
    lines = _lines(node, 2)
    options, wrong = _parse_good_fields(
        CatalogOptions, {str(k): v for k, v in data.items() if k != "styles" and v is not None}
    )
    problems += [
        CatalogProblem.of(p, str(path), line_of(p.field, lines, 1), _TOP_HELP, None) for p in wrong
    ]
    entries = []
    nodes = [value for key, value in node.value if key.value == "styles"][-1].value
    for item, at in zip(styles, nodes, strict=True):
        entry, found = _entry(path, item, at.start_mark.line + 1, _lines(at, 2))
        problems += found
        if entry is not None:
            entries.append(entry)
    gate = options.gate if options is not None and not wrong else ()
    return CatalogContent(entries, problems, gate)


def read_csv(path: Path) -> CatalogContent:
    """Read a CSV file with a header line and one style per row.

    Columns: id, image, counterpart, tags (separated by spaces or ';'), licence, and any training
    setting; an empty cell takes the run's value. Separators are commas, semicolons or tabs.
    """
    text = _text(path)
    head = text.splitlines()[0] if text.strip() else ""
    separator = next((c for c in ",;\t" if c in head), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    entries: list[CatalogEntry] = []
    problems: list[CatalogProblem] = []
    columns: list[str] = []
    line = 1
    try:
        for row in reader:
            if not columns:
                columns = [c.strip() for c in row]
                problems += _header(path, columns)
            elif any(cell.strip() for cell in row):
                entry, wrong = _row(path, columns, row, line)
                problems += wrong
                if entry is not None:
                    entries.append(entry)
            line = reader.line_num + 1
    except csv.Error as e:
        problems.append(
            CatalogProblem(str(path), line, f"not valid CSV ({e})", "correct this line")
        )
    if not columns:
        return _broken(path, 1, "the file is empty", "begin with a header line: id,image")
    return CatalogContent(entries, problems)


def _header(path: Path, columns: list[str]) -> list[CatalogProblem]:
    known = [f for f in FIELDS if f != "overrides"] + list(SETTINGS)
    problems = [
        CatalogProblem(
            str(path),
            1,
            f"unknown column {name!r}{did_you_mean(name, known)}",
            "a column is a field of the catalog or a training setting",
        )
        for name in columns
        if name not in known
    ]
    if "image" not in columns:
        problems.append(CatalogProblem(str(path), 1, "column 'image' is missing", "add it"))
    for name in sorted({c for c in columns if columns.count(c) > 1}):
        problems.append(CatalogProblem(str(path), 1, f"column {name!r} is repeated", "remove one"))
    return problems


def _row(
    path: Path, columns: list[str], row: list[str], line: int
) -> tuple[CatalogEntry | None, list[CatalogProblem]]:
    if len(row) != len(columns):
        what = f"{len(row)} cells where the header has {len(columns)} columns"
        remedy = "write one cell per column; put text with separators in quotes"
        return None, [CatalogProblem(str(path), line, what, remedy)]
    cells = {k: v.strip() for k, v in zip(columns, row, strict=True) if v.strip()}
    item: dict[str, Any] = {k: v for k, v in cells.items() if k in FIELDS and k != "overrides"}
    item["overrides"] = {k: _value(v) for k, v in cells.items() if k in SETTINGS}
    if "tags" in item:
        item["tags"] = item["tags"].replace(";", " ").split()
    return _entry(path, item, line, {})


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _entry(
    path: Path, item: Any, line: int, lines: Mapping[str, int]
) -> tuple[CatalogEntry | None, list[CatalogProblem]]:
    """Parse a mapping to an entry without its invalid fields, and their problems."""
    if not isinstance(item, dict):
        message = f"an entry is {item!r}, not a mapping"
        return None, [CatalogProblem(str(path), line, message, "write at least `image: FILE`")]
    style = str(item["id"]) if isinstance(item.get("id"), (str, int)) else None
    # A YAML field without a value takes the default; a YAML key can be a number.
    given = {str(k): v for k, v in item.items() if v is not None}
    if isinstance(given.get("overrides"), dict):
        given["overrides"] = {str(k): v for k, v in given["overrides"].items()}
    checked, wrong = _parse_good_fields(EntryInput, given)
    problems = [
        CatalogProblem.of(p, str(path), line_of(p.field, lines, line), _ENTRY_HELP, style)
        for p in wrong
    ]
    if checked is None:
        return None, problems
    entry = CatalogEntry(
        id=checked.id if checked.id is not None else id_from(checked.image),
        image=locate(checked.image, path.parent),
        counterpart=locate(checked.counterpart, path.parent) if checked.counterpart else None,
        overrides=checked.overrides,
        tags=checked.tags,
        licence=checked.licence,
        file=str(path),
        line=line,
        lines=dict(lines),
    )
    return entry, problems


_ENTRY_HELP = f"an entry has {', '.join(FIELDS)}"
_TOP_HELP = "a catalog has styles and gate"


def _parse_good_fields(model: type[M], data: dict[str, Any]) -> tuple[M | None, list[Problem]]:
    """Parse data without its invalid fields, so that the valid fields are checked further.

    Returns (model, problems). The model is None where a required field is missing or invalid.
    """
    try:
        return model.parse(data), []
    except InvalidInputError as e:
        problems = list(e.problems)
    invalid = [p.field for p in problems]
    good = {k: v for k, v in data.items() if not any(_is_part_of(f, k) for f in invalid)}
    try:
        return model.parse(good), problems
    except InvalidInputError:
        return None, problems


def _is_part_of(field: str, name: str) -> bool:
    """Whether the path ``field``, such as ``tags[0]``, is or lies in the field ``name``."""
    return field == name or field.startswith((f"{name}.", f"{name}["))


def _lines(node: Any, levels: int, path: str = "") -> dict[str, int]:
    """Lines by field path (``overrides.t0``, ``tags[1]``) of a YAML node.

    levels: maximum depth; with YAML aliases a node can contain itself.
    """
    lines: dict[str, int] = {}
    children: list[tuple[str, Any, Any]] = []
    if isinstance(node, yaml.MappingNode):
        children = [(f".{key.value}", key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(f"[{i}]", child, child) for i, child in enumerate(node.value)]
    for step, mark, value in children if levels else []:
        name = (path + step).removeprefix(".")
        lines[name] = mark.start_mark.line + 1
        lines |= _lines(value, levels - 1, name)
    return lines


def _repeated_keys(path: Path, node: Any, levels: int = YAML_LEVELS) -> list[CatalogProblem]:
    """Problems of repeated keys in mappings; the YAML parser uses the last value."""
    problems: list[CatalogProblem] = []
    if not levels:
        return problems
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen:
                what = f"field {name!r} is repeated (first in line {seen[name]})"
                problem = CatalogProblem(str(path), line, what, "remove one of them", field=name)
                problems.append(problem)
            seen.setdefault(name, line)
            problems += _repeated_keys(path, value, levels - 1)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            problems += _repeated_keys(path, child, levels - 1)
    return problems


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give an existing catalog") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not UTF-8 at byte {e.start}; save it as UTF-8") from None


def _broken(path: Path, line: int | None, message: str, remedy: str) -> CatalogContent:
    return CatalogContent([], [CatalogProblem(str(path), line, message, remedy)])

"""Catalogs as they are written: YAML, CSV, folders, single images."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from factory.catalog.entries import FIELDS, CatalogEntry, CatalogProblem, EntryInput, id_from
from factory.core.uris import locate
from factory.registry.gate import parse_gate
from osasis.errors import UserError, did_you_mean
from osasis.images.decoding import find_images
from osasis.settings import TrainSettings
from osasis.validation import InvalidInputError

TOP_LEVEL = ("styles", "gate")
SETTINGS = tuple(TrainSettings.model_fields)

# Entries, problems, the quality gate's conditions.
Read = tuple[list[CatalogEntry], list[CatalogProblem], list[str]]


def read_folder(path: Path) -> Read:
    """Every image below a folder; the file's stem is the id."""
    found = find_images(path)
    return [CatalogEntry(id_from(str(p)), str(p), file=str(p)) for p in found], [], []


def read_image(path: Path) -> Read:
    """One image is a catalog of one."""
    return [CatalogEntry(id_from(str(path)), str(path), file=str(path))], [], []


def read_yaml(path: Path) -> Read:
    """``styles:`` with a list of entries, and optionally ``gate:``."""
    text = _text(path)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
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
    top = _key_lines(node)
    problems = _repeated_keys(path, node)
    problems += [
        CatalogProblem(
            str(path),
            top.get(str(key)),
            f"unknown field {key!r}{did_you_mean(str(key), TOP_LEVEL)}",
            f"a catalog has {' and '.join(TOP_LEVEL)}",
        )
        for key in data
        if key not in TOP_LEVEL
    ]
    gate, wrong = _gate(path, data.get("gate"), top.get("gate"))
    problems += wrong
    entries = []
    (nodes,) = (value for key, value in node.value if key.value == "styles")
    for item, at in zip(styles, nodes.value, strict=True):
        line = at.start_mark.line + 1
        entry, wrong = _entry(path, item, line, _key_lines(at))
        problems += wrong
        if entry is not None:
            entries.append(entry)
    return entries, problems, gate


def read_csv(path: Path) -> Read:
    """A header line, then a style a line.

    Columns: id, image, counterpart, tags (separated by spaces or ';'), licence, and any training
    setting; an empty cell takes the run's value. The separator is a comma, semicolon or tab.
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
    return entries, problems, []


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
        problems.append(
            CatalogProblem(str(path), 1, f"column {name!r} is there twice", "remove one")
        )
    return problems


def _row(
    path: Path, columns: list[str], row: list[str], line: int
) -> tuple[CatalogEntry | None, list[CatalogProblem]]:
    if len(row) != len(columns):
        what = f"{len(row)} cells where the header has {len(columns)} columns"
        remedy = "write one cell a column; put text with separators in quotes"
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
    """An entry from its mapping, and what is wrong with its form."""
    if not isinstance(item, dict):
        message = f"an entry is {item!r}, not a mapping"
        return None, [CatalogProblem(str(path), line, message, "write at least `image: FILE`")]
    style = str(item["id"]) if isinstance(item.get("id"), (str, int)) else None
    # Empty values of YAML are left out.
    given = {str(k): v for k, v in item.items() if v is not None}
    if isinstance(given.get("overrides"), dict):  # YAML's keys need not be words
        given["overrides"] = {str(k): v for k, v in given["overrides"].items()}
    try:
        checked, problems = EntryInput.parse(given), []
    except InvalidInputError as e:
        problems = [
            CatalogProblem.of(p, str(path), _line_of(p.field, line, lines), _HELP, style)
            for p in e.problems
        ]
        # The good fields are checked further, so that every problem is found at once.
        wrong = {_top(p.field) for p in e.problems}
        if "image" in wrong:
            return None, problems
        checked = EntryInput.parse({k: v for k, v in given.items() if k not in wrong})
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


_HELP = f"an entry has {', '.join(FIELDS)}"


def _top(field: str) -> str:
    """The field of an entry that a path such as ``tags[0]`` lies in."""
    return re.split(r"[.\[]", field, maxsplit=1)[0]


def _line_of(field: str, line: int, lines: Mapping[str, int]) -> int:
    return lines.get(field, lines.get(_top(field), line))


def _gate(path: Path, value: Any, line: int | None) -> tuple[list[str], list[CatalogProblem]]:
    conditions = [value] if isinstance(value, str) else value or []
    if not isinstance(conditions, list):
        what = "gate must be a list of conditions"
        return [], [CatalogProblem(str(path), line, what, "write `gate: [style_distance<=0.8]`")]
    try:
        parse_gate(map(str, conditions))
    except InvalidInputError as e:
        return [], [CatalogProblem.of(p, str(path), line, "", None) for p in e.problems]
    return [str(c) for c in conditions], []


def _key_lines(node: Any) -> dict[str, int]:
    """Line of each key of a YAML mapping, those of ``overrides`` under "overrides.NAME"."""
    lines: dict[str, int] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
        lines[str(key.value)] = key.start_mark.line + 1
        if key.value == "overrides":
            lines |= {f"overrides.{k}": n for k, n in _key_lines(value).items()}
    return lines


def _repeated_keys(path: Path, node: Any) -> list[CatalogProblem]:
    """Keys that stand twice in one mapping: YAML would take the last one silently."""
    problems: list[CatalogProblem] = []
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen:
                what = f"field {name!r} is there twice (first in line {seen[name]})"
                problems.append(CatalogProblem(str(path), line, what, "remove one"))
            seen.setdefault(name, line)
            problems += _repeated_keys(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            problems += _repeated_keys(path, child)
    return problems


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a catalog that is there") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not UTF-8 at byte {e.start}; save it as UTF-8") from None


def _broken(path: Path, line: int | None, message: str, remedy: str) -> Read:
    return [], [CatalogProblem(str(path), line, message, remedy)], []

"""Reads CSV catalogs, as spreadsheets and text editors of any system write them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from factory.catalog.entries import FIELDS, CatalogEntry, CatalogProblem
from factory.catalog.parse import CatalogContent, broken, parse_entry
from factory.core.text_files import read_text
from factory.core.yaml_files import NOTE_PREFIX, Place
from factory.methods import all_settings
from osasis.errors import did_you_mean

SETTINGS = all_settings()
COLUMNS = (*(f for f in FIELDS if f != "overrides"), *SETTINGS)
SEPARATORS = (",", ";", "\t")
# A first line that tells Excel and LibreOffice the separator.
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[,;\t]*(\r\n|\r|\n|$)', re.IGNORECASE)
_TAG_SEPARATORS = re.compile(r"[\s,;|]+")


class _Row(NamedTuple):
    """A row that is not empty. line: where it begins."""

    line: int
    cells: list[str]


class _RowError(Exception):
    """A row that cannot be parsed. line: where it begins."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(line, reason)
        self.line, self.reason = line, reason


def read_csv(path: Path) -> CatalogContent:
    """Read a CSV file with a header line and one style per row.

    Columns: id, image, counterpart, tags (separated by spaces, commas, ``;`` or ``|``), licence,
    and any training setting; an empty cell takes the run's value, and columns that begin with
    ``x-`` are notes. Separators are commas, semicolons or tabs, or what a first line ``sep=;``
    names.
    """
    text = read_text(path)
    separator, first_line = None, 1
    if declared := _SEPARATOR_LINE.match(text):
        separator, first_line = declared[1], 2
        text = text[declared.end() :]
    rows = _rows(text, separator or _separator(text), first_line)
    content = CatalogContent([], [])
    columns: list[str] | None = None
    try:
        for row in rows:
            if columns is None:
                columns = [_column(c) for c in row.cells]
                content.problems.extend(_header_problems(path, row, columns))
                if "image" not in columns:  # every row would lack its image
                    break
                continue
            entry, problems = _entry(path, columns, row)
            content.problems.extend(problems)
            if entry is not None:
                content.entries.append(entry)
    except _RowError as e:
        remedy = 'correct it; within quotes, write " as ""'
        message = f"not valid CSV from this line on ({e.reason})"
        content.problems.append(CatalogProblem(str(path), e.line, message, remedy))
    if columns is None and not content.problems:
        return broken(path, 1, "the file is empty", "begin with a header line: id,image")
    return content


def _separator(text: str) -> str:
    """The separator that gives the header most known columns, or else most columns."""

    def score(separator: str) -> tuple[int, int]:
        try:
            header = next(_rows(text, separator, 1)).cells
        except (StopIteration, _RowError):
            return 0, 0
        return sum(_column(c) in COLUMNS for c in header), len(header)

    return max(SEPARATORS, key=score)


def _rows(text: str, separator: str, first_line: int) -> Iterator[_Row]:
    """The rows without their empty cells at the end, which spreadsheets add or leave out."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = first_line
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as e:
            raise _RowError(line, str(e)) from None
        stripped = [c.strip() for c in cells]
        while stripped and not stripped[-1]:
            stripped.pop()
        if stripped:
            yield _Row(line, stripped)
        line = first_line + reader.line_num


def _column(name: str) -> str:
    """A column's name in any case, with spaces or hyphens between words."""
    folded = name.casefold()
    return folded if folded.startswith(NOTE_PREFIX) else re.sub(r"[\s_-]+", "_", folded)


def _header_problems(path: Path, header: _Row, columns: list[str]) -> list[CatalogProblem]:
    def problem(name: str, message: str, remedy: str) -> CatalogProblem:
        return CatalogProblem(str(path), header.line, message, remedy, field=name, value=name)

    problems = [
        problem(
            written,
            f"unknown column {written!r}{did_you_mean(name, COLUMNS)}",
            "a column is a field of the catalog or a training setting; a note's begins with x-",
        )
        for name, written in zip(columns, header.cells, strict=True)
        if name and name not in COLUMNS and not name.startswith(NOTE_PREFIX)
    ]
    if "image" not in columns:
        problems.append(problem("image", "column 'image' is missing", "add it"))
    for name in sorted({c for c in columns if c and columns.count(c) > 1}):
        problems.append(problem(name, f"column {name!r} is repeated", "remove one"))
    return problems


def _entry(
    path: Path, columns: list[str], row: _Row
) -> tuple[CatalogEntry | None, list[CatalogProblem]]:
    cells: dict[str, str] = {}
    for at, cell in enumerate(row.cells):
        name = columns[at] if at < len(columns) else ""
        if not name and cell:
            what = f"cell {at + 1} is {cell!r}, without a column in the header"
            remedy = f"the header has {len(columns)} columns; put text with separators in quotes"
            return None, [CatalogProblem(str(path), row.line, what, remedy, value=cell)]
        if cell:
            cells[name] = cell
    item: dict[str, Any] = {k: v for k, v in cells.items() if k in COLUMNS and k not in SETTINGS}
    item["overrides"] = {k: _value(v) for k, v in cells.items() if k in SETTINGS}
    if "tags" in item:
        item["tags"] = [tag for tag in _TAG_SEPARATORS.split(item["tags"]) if tag]
    return parse_entry(path, item, {"": Place(row.line)})


def _value(text: str) -> Any:
    # Spreadsheets write TRUE and FALSE.
    written = text.lower() if text.lower() in ("true", "false") else text
    try:
        return json.loads(written)
    except (ValueError, RecursionError):
        return text

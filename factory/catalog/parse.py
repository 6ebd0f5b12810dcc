"""Parses the entries of catalog files, whatever their format."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from factory.catalog.entries import (
    FIELDS,
    TEXT_FIELDS,
    CatalogEntry,
    CatalogProblem,
    EntryInput,
    id_from,
)
from factory.core.text_files import existing_location
from factory.core.uris import locate
from factory.core.yaml_files import Places, explained
from factory.registry.gate import Condition
from osasis.validation import InputModel, InvalidInputError, Problem

M = TypeVar("M", bound=InputModel)
_ENTRY_HELP = f"an entry has {', '.join(FIELDS)}"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class CatalogContent(NamedTuple):
    """What a reader returns: valid entries, problems, and conditions of the quality gate."""

    entries: list[CatalogEntry]
    problems: list[CatalogProblem]
    gate: tuple[Condition, ...] = ()


def parse_entry(
    path: Path, item: Any, places: Places
) -> tuple[CatalogEntry | None, list[CatalogProblem]]:
    """Parse a mapping to an entry without its invalid fields, and their problems."""
    line = places[""].line if places else None
    if not isinstance(item, dict):
        shown = "a list" if isinstance(item, list) else "empty" if item is None else repr(item)
        if places and places[""].text:
            shown = places[""].text
        message = f"an entry is {shown}, not a mapping"
        return None, [CatalogProblem(str(path), line, message, "write at least `image: FILE`")]
    # A field without a value takes the default, but the word null can be a text without quotes.
    given = {
        k: v
        for k, v in item.items()
        if v is not None or (k in TEXT_FIELDS and k in places and places[k].is_null_word)
    }
    checked, wrong = parse_good_fields(EntryInput, given)
    # An id without its quotes still names the style, in problems of this and of other entries.
    style = next((explained(p, places).value for p in wrong if p.field == "id"), given.get("id"))
    style = style if isinstance(style, str) else None
    problems = [CatalogProblem.of(p, str(path), places, _ENTRY_HELP, style) for p in wrong]
    if checked is None:
        return None, problems
    image = _located(checked.image, path)
    entry = CatalogEntry(
        id=style or id_from(image),
        image=image,
        counterpart=_located(checked.counterpart, path) if checked.counterpart else None,
        overrides=checked.overrides,
        tags=checked.tags,
        licence=checked.licence,
        file=str(path),
        line=line,
        places=dict(places),
    )
    found = _control_characters(entry, checked)
    return (entry, problems) if not found else (None, problems + found)


def _located(location: str, catalog: Path) -> str:
    return locate(existing_location(location, catalog.parent), catalog.parent)


def _control_characters(entry: CatalogEntry, checked: EntryInput) -> list[CatalogProblem]:
    r"""Problems of line breaks and tabs in paths, such as ``"photos\new.png"`` in YAML."""
    return [
        entry.problem(
            name,
            f"{name} is {location!r}, with a line break or another control character",
            r"in double quotes \ begins an escape; use single quotes, or / between folders",
            location,
        )
        for name, location in (("image", checked.image), ("counterpart", checked.counterpart))
        if location is not None and _CONTROL.search(location)
    ]


def parse_good_fields(model: type[M], data: dict[str, Any]) -> tuple[M | None, list[Problem]]:
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


def broken(path: Path, line: int | None, message: str, remedy: str) -> CatalogContent:
    """The content of a catalog that cannot be parsed: one problem."""
    return CatalogContent([], [CatalogProblem(str(path), line, message, remedy)])

"""Models of catalog files, entries and problems."""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import to_jsonable_python

from factory.core.bases import NAME
from factory.core.uris import base_name
from factory.registry.gate import Gate
from osasis.errors import UserError
from osasis.settings import TrainSettings, make_settings
from osasis.validation import InputModel, InvalidInputError, Problem


def _scalar_text(value: Any) -> Any:
    """Convert a number or date to text: YAML reads the id ``2024`` as a number."""
    scalar = isinstance(value, (int, float, datetime.date)) and not isinstance(value, bool)
    return str(value) if scalar else value


def overrides_schema() -> dict[str, Any]:
    """The JSON Schema of training settings."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": TrainSettings.model_json_schema()["properties"],
    }


Location = Annotated[str, Field(min_length=1)]


class EntryInput(InputModel):
    """A style as written in a catalog file."""

    subject: ClassVar[str] = "entry"

    id: Annotated[
        str | None,
        BeforeValidator(_scalar_text),
        WithJsonSchema({"type": "string", "pattern": f"^{NAME.pattern}$"}),
    ] = Field(None, description="Name in the registry; by default the name of the image's file.")
    image: Location = Field(
        description="The style image: a path relative to the catalog, or a URI."
    )
    counterpart: Location | None = Field(
        None, description="The photo counterpart, a path or URI; by default the base makes it."
    )
    overrides: Annotated[dict[str, Any], WithJsonSchema(overrides_schema())] = Field(
        default_factory=dict,
        description="Training settings of this style that differ from the run's.",
    )
    tags: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (), description="Words to find the style by."
    )
    licence: Annotated[str, BeforeValidator(_scalar_text)] = Field(
        "", description="Licence note, kept with the style."
    )


FIELDS = tuple(EntryInput.model_fields)


class CatalogOptions(InputModel):
    """Options of a YAML catalog that apply to all of its styles."""

    subject: ClassVar[str] = "catalog"

    gate: Gate = Field(
        (), description="Conditions on a style's metrics for the style to become champion."
    )


class CatalogFile(CatalogOptions):
    """Catalog of style images."""

    styles: Annotated[tuple[EntryInput, ...], Field(strict=False, min_length=1)] = Field(
        description="The styles to train."
    )


@dataclass(frozen=True)
class CatalogEntry:
    """One style to train, and the location of its entry.

    image, counterpart: paths or URIs. overrides: training settings that differ from the run's.
    file, line: location of the entry; line is None in a folder. lines: lines by field, such as
    ``overrides.t0`` and ``tags[1]``.
    """

    id: str
    image: str
    counterpart: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    licence: str = ""
    file: str = ""
    line: int | None = None
    lines: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)

    def settings(self, preset: str, overrides: dict[str, Any]) -> TrainSettings:
        """The settings of this style in a run. Raises InvalidInputError."""
        return run_settings(preset, {**overrides, **self.overrides})

    def problem(self, name: str, message: str, remedy: str, value: Any = None) -> CatalogProblem:
        """A problem of the field ``name`` of this entry."""
        line = line_of(name, self.lines, self.line)
        return CatalogProblem(self.file, line, message, remedy, self.id, name, value)

    @property
    def where(self) -> str:
        """The entry's line or file name, for problems of other entries."""
        if self.line is not None:
            return f"line {self.line}"
        return base_name(self.image)


@dataclass(frozen=True)
class CatalogProblem:
    """A problem of a catalog.

    file, line: location; line is None for a problem of the whole file. message: what is wrong.
    remedy: what to do. style: the entry's id, or None. field, value, allowed: as in ``Problem``,
    relative to the entry.
    """

    file: str
    line: int | None
    message: str
    remedy: str
    style: str | None = None
    field: str = ""
    value: Any = None
    allowed: str = ""

    @classmethod
    def of(
        cls, problem: Problem, file: str, line: int | None, remedy: str, style: str | None
    ) -> CatalogProblem:
        """Locate a model's problem. remedy: used where ``problem.allowed`` is empty."""
        return cls(
            file, line, problem.message,
            f"it must be {problem.allowed}" if problem.allowed else remedy,
            style, problem.field, problem.value, problem.allowed,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """The problem as JSON data; dates and other non-JSON values become text."""
        data: dict[str, Any] = to_jsonable_python(vars(self), fallback=str, inf_nan_mode="strings")
        return data

    def __str__(self) -> str:
        at = f"{self.file}:{self.line}" if self.line is not None else self.file
        return f"{at}: {self.message}" + (f"; {self.remedy}" if self.remedy else "")


class CatalogError(UserError):
    """A catalog with problems. ``problems`` holds all of them."""

    def __init__(self, catalog: str, problems: Iterable[CatalogProblem]) -> None:
        self.catalog, self.problems = catalog, tuple(problems)
        super().__init__(catalog, self.problems)

    def __str__(self) -> str:
        lines = "\n  ".join(map(str, self.problems))
        return f"{self.catalog}: {len(self.problems)} problem(s)\n  {lines}"


def run_settings(preset: str, overrides: dict[str, Any]) -> TrainSettings:
    """Settings of a preset with overrides. Raises InvalidInputError with every problem."""
    changes = {str(k): v for k, v in overrides.items()}  # a YAML key can be a number
    try:
        return TrainSettings.parse({**make_settings(preset).to_dict(), **changes})
    except InvalidInputError as e:
        hint = "'preset' is not a setting; choose a preset for the run (--preset)"
        raise InvalidInputError(
            e.subject,
            [Problem(p.field, p.value, hint) if p.field == "preset" else p for p in e.problems],
        ) from None


def line_of(field: str, lines: Mapping[str, int], default: int | None) -> int | None:
    """The line of a field, or of the nearest enclosing field with a known line."""
    while field and field not in lines:
        field = field[: max(field.rfind("."), field.rfind("["), 0)]
    return lines.get(field, default)


def id_from(location: str) -> str:
    """Derive an id from a file's name: "Oil (dark).png" gives "oil-dark"."""
    stem = Path(base_name(location)).stem
    slug = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")
    if not slug:
        slug = "style-" + hashlib.sha256(stem.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return slug[:63]

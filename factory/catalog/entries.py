"""Models of catalog files, entries and problems."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, WithJsonSchema
from pydantic_core import to_jsonable_python

from factory.core.bases import NAME
from factory.core.uris import base_name
from factory.core.yaml_files import NOTE_PREFIX, Places, explained, place_of
from factory.methods import Method, all_methods
from factory.registry.gate import Gate
from osasis.errors import UserError
from osasis.validation import InputModel, InvalidInputError, Problem


def overrides_schema() -> dict[str, Any]:
    """The JSON Schema of training settings. A setting of several methods has any of theirs."""
    found: dict[str, list[dict[str, Any]]] = {}
    for method in all_methods():
        for name, schema in method.settings.model_json_schema()["properties"].items():
            found.setdefault(name, []).append(schema)
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
            for name, schemas in found.items()
        },
    }


# Keys for anchors and notes, in the catalog and in its entries.
NOTES_SCHEMA: dict[str, Any] = {"patternProperties": {f"^{NOTE_PREFIX}": {}}}
Location = Annotated[str, Field(min_length=1)]


class EntryInput(InputModel):
    """A style as written in a catalog file."""

    model_config = ConfigDict(json_schema_extra=NOTES_SCHEMA)
    subject: ClassVar[str] = "entry"

    id: Annotated[str, WithJsonSchema({"type": "string", "pattern": f"^{NAME.pattern}$"})] = Field(
        "",
        min_length=1,
        description="Name in the registry; by default the name of the image's file.",
    )
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
    licence: str = Field("", description="Licence note, kept with the style.")


FIELDS = tuple(EntryInput.model_fields)
# Fields of text, in which null is no value.
TEXT_FIELDS = tuple(n for n, f in EntryInput.model_fields.items() if f.annotation is str)


class CatalogOptions(InputModel):
    """Options of a YAML catalog that apply to all of its styles."""

    model_config = ConfigDict(json_schema_extra=NOTES_SCHEMA)
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
    file, line: location of the entry; line is None in a folder. places: where its fields are
    written.
    """

    id: str
    image: str
    counterpart: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    licence: str = ""
    file: str = ""
    line: int | None = None
    places: Places = field(default_factory=dict, repr=False, compare=False)

    def settings(self, method: Method, preset: str, overrides: dict[str, Any]) -> Any:
        """The method's settings of this style in a run. Raises InvalidInputError."""
        return run_settings(method, preset, {**overrides, **self.overrides})

    def problem(self, name: str, message: str, remedy: str, value: Any = None) -> CatalogProblem:
        """A problem of the field ``name`` of this entry."""
        place = place_of(name, self.places)
        line = place.line if place else self.line
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
        cls, problem: Problem, file: str, places: Places, remedy: str, style: str | None
    ) -> CatalogProblem:
        """Locate a model's problem. remedy: used where ``problem.allowed`` is empty."""
        problem = explained(problem, places)
        place = place_of(problem.field, places)
        return cls(
            file, place.line if place else None, problem.message,
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


def run_settings(method: Method, preset: str, overrides: dict[str, Any]) -> Any:
    """Settings of a preset with overrides. Raises InvalidInputError with every problem."""
    changes = {str(k): v for k, v in overrides.items()}  # a YAML key can be a number
    preset_values = method.make_settings(preset).to_dict()
    try:
        return method.settings.parse({**preset_values, **changes})
    except InvalidInputError as e:
        hint = "'preset' is not a setting; choose a preset for the run (--preset)"
        raise InvalidInputError(
            e.subject,
            [Problem(p.field, p.value, hint) if p.field == "preset" else p for p in e.problems],
        ) from None


def id_from(location: str) -> str:
    """Derive an id from a file's name: "Oil (dark).png" gives "oil-dark"."""
    stem = Path(base_name(location)).stem
    slug = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")
    if not slug:
        slug = "style-" + hashlib.sha256(stem.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return slug[:63]

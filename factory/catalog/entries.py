"""What a catalog holds, and what can be wrong with it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, WithJsonSchema

from factory.core.bases import NAME
from factory.core.uris import base_name
from osasis.errors import UserError
from osasis.settings import TrainSettings, make_settings
from osasis.validation import InputModel, InvalidInputError, Problem


def _id_text(value: Any) -> Any:
    """YAML reads an id of digits as a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def overrides_schema() -> dict[str, Any]:
    """The JSON Schema of training settings."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": TrainSettings.model_json_schema()["properties"],
    }


Location = Annotated[str, Field(min_length=1)]


class EntryInput(InputModel):
    """One style of a catalog, as its file names it."""

    subject: ClassVar[str] = "entry"

    id: Annotated[
        str | None,
        BeforeValidator(_id_text),
        WithJsonSchema({"type": "string", "pattern": f"^{NAME.pattern}$"}),
    ] = Field(None, description="Name in the registry; the image's file name where it is left out.")
    image: Location = Field(
        description="The style image: a path relative to the catalog, or a URI."
    )
    counterpart: Location | None = Field(
        None, description="Its photo counterpart; made by the base where it is left out."
    )
    overrides: Annotated[dict[str, Any], WithJsonSchema(overrides_schema())] = Field(
        default_factory=dict,
        description="Training settings of this style that differ from the run's.",
    )
    tags: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (), description="Words to find the style by."
    )
    licence: str = Field("", description="Licence note, kept with the style.")


# Fields of an entry in a file, in the order in which people write them.
FIELDS = tuple(EntryInput.model_fields)


@dataclass(frozen=True)
class CatalogEntry:
    """One style to train.

    image, counterpart: paths or URIs. overrides: training settings that differ from the run's.
    file, line: where the entry stands; line is None in a folder. lines: those of its fields.
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
        """A problem of this entry's field of that name."""
        line = self.lines.get(name, self.line)
        return CatalogProblem(self.file, line, message, remedy, self.id, name, value)

    @property
    def where(self) -> str:
        """How another entry's problem refers to this one."""
        if self.line is not None:
            return f"line {self.line}"
        return base_name(self.image)


@dataclass(frozen=True)
class CatalogProblem:
    """Something wrong with a catalog.

    file, line: where; line is None for the file as a whole. message: what is wrong; remedy: what to
    do. style: the entry's id where it has one. field, value, allowed: as in ``Problem``.
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
        """A problem of an input at a place of a catalog. remedy: where the problem itself does not
        say what is allowed."""
        return cls(
            file, line, problem.message,
            f"it must be {problem.allowed}" if problem.allowed else remedy,
            style, problem.field, problem.value, problem.allowed,
        )  # fmt: skip

    def __str__(self) -> str:
        at = f"{self.file}:{self.line}" if self.line is not None else self.file
        return f"{at}: {self.message}" + (f"; {self.remedy}" if self.remedy else "")


class CatalogError(UserError):
    """A catalog that cannot be run. ``problems`` has every one."""

    def __init__(self, catalog: str, problems: Iterable[CatalogProblem]) -> None:
        self.catalog, self.problems = catalog, tuple(problems)
        super().__init__(catalog, self.problems)

    def __str__(self) -> str:
        lines = "\n  ".join(map(str, self.problems))
        return f"{self.catalog}: {len(self.problems)} problem(s)\n  {lines}"


def run_settings(preset: str, overrides: dict[str, Any]) -> TrainSettings:
    """Settings of a preset with overrides. Raises InvalidInputError with every problem."""
    if "preset" in overrides:
        message = "'preset' is no setting; choose one for the run (--preset)"
        raise InvalidInputError("settings", [Problem("preset", overrides["preset"], message)])
    # YAML's keys need not be words.
    return make_settings(preset, **{str(k): v for k, v in overrides.items()})


def id_from(location: str) -> str:
    """The id that a file's name gives: a stem such as "Oil (dark)" becomes "oil-dark"."""
    stem = Path(base_name(location)).stem
    slug = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")
    if not slug:
        slug = "style-" + hashlib.sha256(stem.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return slug[:63]

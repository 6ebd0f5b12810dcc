"""What a catalog holds, and what can be wrong with it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factory.core.uris import base_name
from osasis.errors import UserError
from osasis.settings import TrainSettings, make_settings

# Fields of an entry in a file, in the order in which people write them.
FIELDS = ("id", "image", "counterpart", "overrides", "tags", "licence")


@dataclass(frozen=True)
class CatalogEntry:
    """One style to train.

    image, counterpart: paths or URIs. overrides: training settings that differ from the run's.
    file, line: where it stands; line is None in a folder. lines: those of its single fields.
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
        """The settings of this style in a run. Raises UserError."""
        return run_settings(preset, {**overrides, **self.overrides})

    def problem(self, name: str, message: str, remedy: str) -> Problem:
        """A problem of this entry's field of that name."""
        return Problem(self.file, self.lines.get(name, self.line), message, remedy, self.id)

    @property
    def where(self) -> str:
        """How another entry's problem refers to this one."""
        if self.line is not None:
            return f"line {self.line}"
        return base_name(self.image)


@dataclass(frozen=True)
class Problem:
    """Something wrong with a catalog: where (line is None for the file as a whole), what, and
    what to do about it. style: the entry's id where it has one."""

    file: str
    line: int | None
    message: str
    remedy: str
    style: str | None = None

    def __str__(self) -> str:
        at = f"{self.file}:{self.line}" if self.line is not None else self.file
        return f"{at}: {self.message}; {self.remedy}"


class CatalogError(UserError):
    """A catalog that cannot be run. ``problems`` has every one."""

    def __init__(self, catalog: str, problems: Iterable[Problem]) -> None:
        self.catalog, self.problems = catalog, tuple(problems)
        super().__init__(catalog, self.problems)

    def __str__(self) -> str:
        lines = "\n  ".join(map(str, self.problems))
        return f"{self.catalog}: {len(self.problems)} problem(s)\n  {lines}"


def run_settings(preset: str, overrides: dict[str, Any]) -> TrainSettings:
    """Settings of a preset with overrides. Raises UserError with everything that is wrong."""
    if "preset" in overrides:
        raise UserError("settings: 'preset' is not a setting; choose one for the run (--preset)")
    # YAML's keys need not be words.
    return make_settings(preset, **{str(k): v for k, v in overrides.items()})


def id_from(location: str) -> str:
    """The id that a file's name gives: a stem such as "Oil (dark)" becomes "oil-dark"."""
    stem = Path(base_name(location)).stem
    slug = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")
    if not slug:
        slug = "style-" + hashlib.sha256(stem.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return slug[:63]

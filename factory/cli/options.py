"""Options that several commands share, and the reading of values that Typer has no type for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from osasis.errors import UserError

if TYPE_CHECKING:
    from factory.core.home import Home

# Panels of the help.
INPUTS, OUTPUTS, INSTALLATION = "Inputs", "Outputs", "Installation"
TRAINING, CLUSTER, FAILURES = "Training", "Cluster", "Failures"

Preset = Literal["reference", "default", "fast"]

HomeOption = Annotated[
    str | None,
    typer.Option(
        "--home",
        metavar="DIR",
        help="Folder with all state of the installation (default: STYLE_FACTORY_HOME, else "
        "./.style-factory).",
        rich_help_panel=INSTALLATION,
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON document to standard output.",
        rich_help_panel=INSTALLATION,
    ),
]
BaseOption = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="NAME",
        help="Name of the base (default: the only one).",
        rich_help_panel=INPUTS,
    ),
]
CatalogArgument = Annotated[
    str,
    typer.Argument(
        metavar="CATALOG", help="YAML or CSV file, folder of style images, or one style image."
    ),
]
PresetOption = Annotated[
    Preset, typer.Option(help="Preset of the training settings.", rich_help_panel=TRAINING)
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A training setting; may be given several times.",
        rich_help_panel=TRAINING,
    ),
]
LicenceOption = Annotated[
    str, typer.Option(metavar="TEXT", help="Licence note to keep.", rich_help_panel=OUTPUTS)
]
ReplaceOption = Annotated[
    bool,
    typer.Option("--replace", help="Replace another base of this name.", rich_help_panel=OUTPUTS),
]


def find_home(given: str | None) -> Home:
    """The home that ``--home`` names. Imported here: its import takes a second."""
    from factory.core.home import Home

    return Home.find(given)


def assignments(items: list[str] | None, option: str) -> dict[str, Any]:
    """NAME=VALUE pairs; values are read as JSON where they are JSON, else as text."""
    values: dict[str, Any] = {}
    for item in items or ():
        name, found, value = item.partition("=")
        if not found or not name:
            raise UserError(f"{option} {item!r}: write NAME=VALUE")
        try:
            values[name] = json.loads(value)
        except json.JSONDecodeError:
            values[name] = value
    return values


def names(text: str) -> list[str]:
    """The names in a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def check_above_zero(value: float | None, option: str) -> float | None:
    """The value. Raises UserError where it is 0 or less."""
    if value is not None and not value > 0:
        raise UserError(f"{option} is {value:g}; it must be above 0")
    return value

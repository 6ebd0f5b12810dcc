"""Options that several commands share, and parsers of values for which Typer has no type."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from osasis.errors import UserError

if TYPE_CHECKING:
    from factory.core.home import Home

# Panels of the help.
INPUTS, OUTPUTS, INSTALLATION = "Inputs", "Outputs", "Installation"
TRAINING, CLUSTER, FAILURES = "Training", "Cluster", "Failures"

# Bytes of a unit, in GB.
UNITS = {"GB": 1.0, "MB": 1e-3, "GIB": 2**30 / 1e9, "MIB": 2**20 / 1e9}

# Of all methods; the method of the base refuses those of the other.
Preset = Literal["reference", "default", "fast", "refined", "instant", "small"]


def option(panel: str, help: str, *names: str, **settings: Any) -> Any:
    """A Typer option in a help panel. settings: further arguments of ``typer.Option``."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **settings)


HomeOption = Annotated[
    str | None,
    option(
        INSTALLATION,
        "Folder with all state of the installation (default: STYLE_FACTORY_HOME, else "
        "./.style-factory).",
        "--home",
        metavar="DIR",
    ),
]
JsonOption = Annotated[
    bool, option(INSTALLATION, "Print one JSON document to standard output.", "--json")
]
BaseOption = Annotated[
    str | None,
    option(INPUTS, "Name of the base (default: the only one).", "--base", metavar="NAME"),
]
CatalogArgument = Annotated[
    str,
    typer.Argument(
        metavar="CATALOG",
        help="YAML, JSON or CSV file, folder of style images, or one style image; path or URI.",
    ),
]
PresetOption = Annotated[
    Preset | None,
    option(TRAINING, "Preset of the training settings (default: the base's own)."),
]
SettingsOption = Annotated[
    list[str] | None,
    option(
        TRAINING, "A training setting; may be given several times.", "--set", metavar="NAME=VALUE"
    ),
]
EstimateOption = Annotated[
    bool,
    option(
        OUTPUTS,
        "Print how much there is to do and how long it takes, and do nothing.",
        "--estimate",
    ),
]
NotifyOption = Annotated[
    str | None,
    option(
        OUTPUTS,
        "Address that gets the start, the end or the failure as JSON, signed with "
        "STYLE_FACTORY_WEBHOOK_SECRET.",
        "--notify",
        metavar="URL",
    ),
]
LicenceOption = Annotated[str, option(OUTPUTS, "Licence note to store.", metavar="TEXT")]
ReplaceOption = Annotated[bool, option(OUTPUTS, "Replace another base of this name.", "--replace")]


def find_home(given: str | None) -> Home:
    """The home that ``--home`` names.

    If the user has no home directory, the folder ``user-home`` below the home replaces it.

    Imports here: they take a second.
    """
    from factory.cli.user_home import ensure_user_home
    from factory.core.home import Home

    home = Home.find(given)
    ensure_user_home(home.path / "user-home")
    return home


def assignments(items: list[str] | None, flag: str) -> dict[str, Any]:
    """Parse NAME=VALUE pairs; a value that is not JSON is text. Raises UserError."""
    values: dict[str, Any] = {}
    for item in items or ():
        name, found, value = item.partition("=")
        if not found or not name:
            raise UserError(f"{flag} {item!r}: write NAME=VALUE")
        try:
            values[name] = json.loads(value)
        except (ValueError, RecursionError):
            values[name] = value
    return values


def names(text: str) -> list[str]:
    """Split a comma-separated list of names."""
    return [name.strip() for name in text.split(",") if name.strip()]


def check_above_zero(value: float | None, flag: str) -> None:
    """Raise UserError for a value of 0 or less."""
    if value is not None and not value > 0:
        raise UserError(f"{flag} is {value:g}; it must be above 0")


def memory_setting(size: str | None) -> dict[str, float]:
    """The training setting ``memory`` (GB) of an option such as ``24GB`` or ``800 MiB``."""
    if size is None:
        return {}
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", size.strip())
    unit = UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None:
        raise UserError(f"--memory is {size!r}; give a number with GB, GiB, MB or MiB, as in 24GB")
    return {"memory": float(found[1]) * unit}

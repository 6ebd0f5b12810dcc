"""Readers of the files below infra/."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import typer
import yaml

from factory.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"


def documents(name: str) -> list[dict[str, Any]]:
    """All documents of a YAML file below infra/."""
    return [d for d in yaml.safe_load_all((INFRA / name).read_text()) if d is not None]


def document(name: str) -> dict[str, Any]:
    (only,) = documents(name)
    return only


def pinned(package: str) -> str:
    """The version of a package in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = (x.replace("_", "-").partition("==") for x in lines)
    (version,) = [version for name, _, version in pins if name == package]
    return version


def check_command(command: str | list[str]) -> dict[str, Any]:
    """Parse a `style-factory` command and return its parameters."""
    program, *arguments = shlex.split(command) if isinstance(command, str) else command
    assert program == "style-factory", command
    found = typer.main.get_command(app)
    while hasattr(found, "commands"):
        found = found.commands[arguments.pop(0)]
    parameters: dict[str, Any] = found.make_context(found.name, arguments).params
    return parameters

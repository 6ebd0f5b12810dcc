"""Reading of what lies under infra/."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml

from factory import cli

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"


def documents(name: str) -> list[dict[str, Any]]:
    """All documents of a YAML file under infra/."""
    return [d for d in yaml.safe_load_all((INFRA / name).read_text()) if d is not None]


def document(name: str) -> dict[str, Any]:
    (only,) = documents(name)
    return only


def pinned(package: str) -> str:
    """The version of a package in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    (version,) = [x.partition("==")[2] for x in lines if x.partition("==")[0] == package]
    return version


def check_command(command: str | list[str]) -> Any:
    """The parsed arguments of a `style-factory` command; fails where the parser refuses it."""
    program, *arguments = shlex.split(command) if isinstance(command, str) else command
    assert program == "style-factory", command
    try:
        return cli._parser().parse_args(arguments)
    except SystemExit:
        raise AssertionError(f"the command line knows no such call: {command}") from None

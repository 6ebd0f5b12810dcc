"""`style-factory inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factory.cli.options import HomeOption, JsonOption
from factory.cli.output import print_document


def inspect(
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="PNG, JPEG, WebP, or a Parquet output.")
    ],
    row: Annotated[int, typer.Option(min=0, help="Row of a Parquet output.")] = 0,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the provenance of a stylized image, and the command that reproduces the image."""
    from factory.core.remake import provenance_of, remake_command

    found = provenance_of(image, row)
    command = remake_command(found)
    lines = [f"{name}: {value}" for name, value in found.to_text().items()]
    document = {"provenance": found.to_dict(), "command": command}
    print_document(document, "\n".join([*lines, f"command: {command}"]), as_json)

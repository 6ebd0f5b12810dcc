"""`style-factory catalog ...`."""

from __future__ import annotations

from pathlib import Path

import typer

from factory.cli.calls import Command, Group
from factory.cli.options import (
    CatalogArgument,
    HomeOption,
    JsonOption,
    PresetOption,
    SettingsOption,
    assignments,
)
from factory.cli.output import print_document, print_progress, print_result

app = typer.Typer(cls=Group, help="Check catalogs, and print their JSON Schema.")


@app.command(cls=Command)
def check(
    catalog: CatalogArgument,
    preset: PresetOption = None,
    set_: SettingsOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a catalog and print all problems."""
    from factory.catalog import check_catalog

    found = check_catalog(
        Path(catalog), preset or "default", assignments(set_, "--set"), report=print_progress
    )
    styles, problems = len(found.entries), [p.to_dict() for p in found.problems]
    lines = [*map(str, found.problems), f"{styles} style(s), {len(problems)} problem(s)"]
    document = {"catalog": found.path, "styles": styles, "problems": problems}
    print_document(document, "\n".join(lines), as_json)
    if found.problems:
        raise typer.Exit(1)


@app.command(cls=Command)
def schema(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Print the JSON Schema of YAML catalogs."""
    from factory.catalog.schema import shipped_schema

    print_result(shipped_schema().rstrip())

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
from factory.cli.output import print_json, print_result

app = typer.Typer(cls=Group)


@app.command(cls=Command)
def check(
    catalog: CatalogArgument,
    preset: PresetOption = "fast",
    set_: SettingsOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a catalog and print all problems."""
    from factory.catalog import check_catalog

    found = check_catalog(Path(catalog), preset, assignments(set_, "--set"))
    if as_json:
        problems = [p.to_dict() for p in found.problems]
        print_json({"catalog": found.path, "styles": len(found.entries), "problems": problems})
    else:
        for problem in found.problems:
            print_result(str(problem))
        print_result(f"{len(found.entries)} style(s), {len(found.problems)} problem(s)")
    if found.problems:
        raise typer.Exit(1)


@app.command(cls=Command)
def schema(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Print the JSON Schema of YAML catalogs."""
    from factory.catalog.schema import shipped_schema

    print_result(shipped_schema().rstrip())

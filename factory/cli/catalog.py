"""`style-factory catalog ...`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from factory.cli.calls import Command, Group
from factory.cli.options import (
    BaseOption,
    CatalogArgument,
    HomeOption,
    JsonOption,
    PresetOption,
    SettingsOption,
    assignments,
    find_home,
)
from factory.cli.output import print_document, print_progress, print_result

if TYPE_CHECKING:
    from factory.methods import Method

app = typer.Typer(cls=Group, help="Check catalogs, and print their JSON Schema.")


@app.command(cls=Command)
def check(
    catalog: CatalogArgument,
    base: BaseOption = None,
    preset: PresetOption = None,
    set_: SettingsOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a catalog and print all problems."""
    from factory.catalog import check_catalog

    found = check_catalog(
        catalog,
        preset or "default",
        assignments(set_, "--set"),
        report=print_progress,
        method=_method(home, base),
    )
    styles, problems = len(found.entries), [p.to_dict() for p in found.problems]
    lines = [*map(str, found.problems), f"{styles} style(s), {len(problems)} problem(s)"]
    document = {"catalog": found.path, "styles": styles, "problems": problems}
    print_document(document, "\n".join(lines), as_json)
    if found.problems:
        raise typer.Exit(1)


def _method(home: str | None, base: str | None) -> Method:
    """The method of the base; without a name, that of all bases of the home. Raises UserError."""
    from factory.methods import method_of
    from osasis.bundles.files import method_name, read_base_json

    place = find_home(home)
    infos = [read_base_json(folder) for folder in place.base_folders().values()]
    if base is None and len({method_name(info) for info in infos}) == 1:
        return method_of(infos[0])
    return method_of(read_base_json(place.base_folder(base)))


@app.command(cls=Command)
def schema(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Print the JSON Schema of YAML catalogs."""
    from factory.catalog.schema import shipped_schema

    print_result(shipped_schema().rstrip())

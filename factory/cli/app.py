"""The command tree."""

from __future__ import annotations

from typing import Annotated

import typer

from factory.cli import (
    base,
    catalog,
    doctor,
    evaluate,
    inspect,
    serve,
    slots,
    styles,
    stylize,
    train,
)
from factory.cli.calls import Command, Group
from factory.cli.output import print_result

TRAINING, STYLIZING, REGISTRY = "Training", "Stylizing", "Styles, bases, installation"

app = typer.Typer(cls=Group, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    if asked:
        from factory import __version__

        print_result(f"style-factory {__version__}")
        raise typer.Exit


@app.callback()
def style_factory(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """One style image in, one registered style model out, for a whole catalog."""


app.command(cls=Command, rich_help_panel=TRAINING)(train.train)
app.add_typer(catalog.app, name="catalog", rich_help_panel=TRAINING)
app.add_typer(slots.app, name="slots", rich_help_panel=TRAINING)
app.command(cls=Command, rich_help_panel=STYLIZING)(stylize.stylize)
app.command(cls=Command, rich_help_panel=STYLIZING)(evaluate.evaluate)
app.command(cls=Command, rich_help_panel=STYLIZING)(inspect.inspect)
app.command(cls=Command, rich_help_panel=STYLIZING)(serve.serve)
app.add_typer(styles.app, name="styles", rich_help_panel=REGISTRY)
app.add_typer(base.app, name="base", rich_help_panel=REGISTRY)
app.command(cls=Command, rich_help_panel=REGISTRY)(doctor.doctor)
app.command("text-edit", cls=Command, rich_help_panel=REGISTRY)(train.text_edit)

"""`style-factory base train-diffstyler`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factory.cli.options import (
    INPUTS,
    TRAINING,
    HomeOption,
    JsonOption,
    LicenceOption,
    ReplaceOption,
    SettingsOption,
    assignments,
    find_home,
    option,
)
from factory.cli.output import print_document, print_progress


def train_diffstyler(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the base.")],
    images: Annotated[str, option(INPUTS, "Folder or URI of photos of one domain.", metavar="DIR")],
    config: Annotated[
        Path | None,
        option(INPUTS, "JSON file with sizes of the networks (default: 64 px).", metavar="FILE"),
    ] = None,
    set_: SettingsOption = None,
    seed: Annotated[int, option(TRAINING, "Seed of every random draw.")] = 0,
    minutes: Annotated[
        float | None, option(TRAINING, "Stop after this time; the same command resumes.")
    ] = None,
    licence: LicenceOption = "",
    replace: ReplaceOption = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a small Stable Diffusion on photos of your own, as a base for DiffStyler."""
    from pipelines.diffstyler_base_training import train_diffstyler_base

    run = train_diffstyler_base(
        name,
        images,
        config=config,
        home=find_home(home),
        overrides={"seed": seed} | assignments(set_, "--set"),
        minutes=minutes,
        licence=licence,
        replace=replace,
        report=print_progress,
    )
    if run.info is not None:
        text = f"base {name} trained (fingerprint {run.info['fingerprint']})"
    else:
        text = (
            f"stopped after {minutes:g} minute(s); the same command resumes; the model as it is "
            f"now is in {run.model}"
        )
    document = {
        "finished": run.finished,
        "model": None if run.finished else str(run.model),
        "base": run.info,
    }
    print_document(document, text, as_json)
    if not run.finished:
        raise typer.Exit(1)

"""`style-factory base train-predictor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from factory.cli.options import CLUSTER, INPUTS, TRAINING, HomeOption, JsonOption, find_home, option
from factory.cli.output import print_document, print_error, print_progress


def train_predictor(
    images: Annotated[
        Path, option(INPUTS, "Folder of photos, on which looks are painted.", metavar="DIR")
    ],
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Name of the base (default: the only one)."),
    ] = None,
    minutes: Annotated[
        float | None, option(TRAINING, "Total training time over all runs, in minutes.")
    ] = None,
    steps: Annotated[int | None, option(TRAINING, "Number of steps, instead of --minutes.")] = None,
    styles: Annotated[int, option(TRAINING, "Number of painted styles.", min=2)] = 400,
    seed: Annotated[int, option(TRAINING, "Seed of every random draw.", min=0)] = 0,
    device: Annotated[Literal["cpu", "cuda"], option(CLUSTER, "Device to train on.")] = "cpu",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the style predictor of a base, for preset `instant`."""
    from osasis.pretraining.budgeted_training import BudgetTooShortError, TrainingBudget
    from pipelines.predictor_training import add_predictor

    try:
        info = add_predictor(
            name,
            images,
            home=find_home(home),
            budget=TrainingBudget(minutes, steps),
            styles=styles,
            seed=seed,
            device=device,
            report=print_progress,
        )
    except BudgetTooShortError as e:
        print_error(e, as_json)
        raise typer.Exit(1) from None
    made = info["provenance"]
    text = f"predictor of base {made['base_name']} trained in {made['steps']} steps"
    print_document(info, text, as_json)

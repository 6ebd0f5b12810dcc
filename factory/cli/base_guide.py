"""`style-factory base train-guide`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from factory.cli.options import INPUTS, OUTPUTS, TRAINING, HomeOption, JsonOption
from factory.cli.output import print_error, print_json, print_result


def train_guide(
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder for weights and configuration.",
            rich_help_panel=OUTPUTS,
        ),
    ],
    images: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of photos.", rich_help_panel=INPUTS)
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL.json", help="open_clip model configuration.", rich_help_panel=INPUTS
        ),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of other photos to measure the guide on.",
            rich_help_panel=INPUTS,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Wall time of the training, all runs together.", rich_help_panel=TRAINING
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Number of steps, instead of a time in minutes.", rich_help_panel=TRAINING
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of every random draw.", rich_help_panel=TRAINING)
    ] = 0,
    paintings: Annotated[
        int,
        typer.Option(
            help="Number of looks to paint, each on three people.", rich_help_panel=TRAINING
        ),
    ] = 1500,
    batch: Annotated[
        int, typer.Option(help="Number of looks in a step.", rich_help_panel=TRAINING)
    ] = 32,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(
            help="Arithmetic of the training; auto chooses what the machine supports.",
            rich_help_panel=TRAINING,
        ),
    ] = "auto",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a small open_clip guide on photos, procedural looks and captions."""
    from osasis.pretraining import train_guide as guides
    from osasis.pretraining.budgeted_training import BudgetTooShortError, TrainingBudget

    try:
        report = guides.train_guide(
            images,
            out,
            TrainingBudget(minutes, steps),
            config=config,
            seed=seed,
            paintings=paintings,
            batch=batch,
            precision=precision,
            validation=validation,
        )
    except BudgetTooShortError as e:
        print_error(e, as_json)
        raise typer.Exit(1) from None
    if as_json:
        print_json(report)
        return
    print_result(f"guide {report['model']} trained in {report['steps']} steps: {out}")
    for name, value in report.get("validation", {}).items():
        print_result(f"  {name:16} {value:.3f}")

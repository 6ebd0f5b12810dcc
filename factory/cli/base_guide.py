"""`style-factory base train-guide`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factory.cli.options import INPUTS, OUTPUTS, TRAINING, HomeOption, JsonOption, option
from factory.cli.output import print_document, print_error
from osasis.choices import Precision


def train_guide(
    out: Annotated[Path, option(OUTPUTS, "Folder for weights and configuration.", metavar="DIR")],
    images: Annotated[Path, option(INPUTS, "Folder of photos.", metavar="DIR")],
    config: Annotated[
        Path | None, option(INPUTS, "open_clip model configuration.", metavar="MODEL.json")
    ] = None,
    validation: Annotated[
        Path | None,
        option(INPUTS, "Folder of other photos to measure the guide on.", metavar="DIR"),
    ] = None,
    minutes: Annotated[
        float | None, option(TRAINING, "Total training time over all runs, in minutes.")
    ] = None,
    steps: Annotated[int | None, option(TRAINING, "Number of steps, instead of --minutes.")] = None,
    seed: Annotated[int, option(TRAINING, "Seed of every random draw.")] = 0,
    paintings: Annotated[
        int, option(TRAINING, "Number of looks to paint, each on three people.")
    ] = 1500,
    batch: Annotated[int, option(TRAINING, "Number of looks in a step.")] = 32,
    precision: Annotated[
        Precision,
        option(TRAINING, "Arithmetic of the training; auto chooses what the machine supports."),
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
    lines = [f"guide {report['model']} trained in {report['steps']} steps: {out}"]
    lines += [f"  {name:16} {value:.3f}" for name, value in report.get("validation", {}).items()]
    print_document(report, "\n".join(lines), as_json)

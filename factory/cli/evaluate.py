"""`style-factory evaluate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factory.cli.options import (
    CLUSTER,
    INPUTS,
    OUTPUTS,
    HomeOption,
    JsonOption,
    assignments,
    check_above_zero,
    find_home,
    names,
    option,
)
from factory.cli.output import print_document, print_progress, print_raw
from osasis import choices

if TYPE_CHECKING:
    from pipelines.evaluation_bases import Comparison
    from pipelines.evaluation_result import EvaluationResult

MEASUREMENT, MIX = "Measurement", "Mix"


def evaluate(
    styles: Annotated[
        str,
        option(
            INPUTS,
            "Styles, comma-separated: a, b@candidate, c:3. They may be of several bases.",
            metavar="NAMES",
        ),
    ],
    photos: Annotated[
        str,
        option(INPUTS, "Folder, glob, list (.txt), photo, or a URI of these.", metavar="PHOTOS"),
    ],
    limit: Annotated[
        int | None, option(INPUTS, "Use only the first photos, up to this number.", min=1)
    ] = None,
    density: Annotated[
        int | None,
        option(
            INPUTS,
            "Use only this many photos of the lowest and of the highest density of the base's "
            "training data.",
            min=1,
        ),
    ] = None,
    paper: Annotated[
        bool,
        option(
            INPUTS,
            "The paper's protocol: --density 100 and --sweep structure=0,0.1,0.5,1, with the "
            "published figures beside.",
        ),
    ] = False,
    fit: Annotated[
        choices.SquareFit, option(INPUTS, "How a photo is fitted to the base's square.")
    ] = "crop",
    baselines: Annotated[
        str,
        option(
            MEASUREMENT,
            "Other methods to compare with, comma-separated: reinhard, gatys, sdedit, no-spn, "
            "no-in-domain.",
            metavar="NAMES",
        ),
    ] = "",
    metrics: Annotated[
        str,
        option(
            MEASUREMENT,
            "Metrics, comma-separated: lpips, identity, structure, style, ... (default: all).",
            metavar="NAMES",
        ),
    ] = "",
    weights: Annotated[
        Path | None,
        option(MEASUREMENT, "Folder of weights, such as lpips_alex.safetensors.", metavar="DIR"),
    ] = None,
    gate: Annotated[
        list[str] | None,
        option(
            MEASUREMENT,
            "Condition such as evaluate.identity<=0.35; a candidate that meets all becomes "
            "champion; may be given several times.",
            metavar="CONDITION",
        ),
    ] = None,
    seed: Annotated[
        int, option(MEASUREMENT, "Seed of baselines and confidence intervals.", min=0)
    ] = 0,
    mix: Annotated[
        list[str] | None,
        option(
            MIX, "A mix parameter, as in stylize; may be given several times.", metavar="NAME=VALUE"
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        option(
            MIX,
            "Values of a mix parameter or a training setting to compare; a setting trains the "
            "styles again. May be given several times.",
            metavar="NAME=a,b,c",
        ),
    ] = None,
    output: Annotated[
        str | None,
        option(
            OUTPUTS,
            "Folder or URI for pictures and measurements (default: one in the home's jobs).",
            metavar="DIR",
        ),
    ] = None,
    workers: Annotated[
        int | None, option(CLUSTER, "Model actors (default: one per GPU, else one per CPU).", min=1)
    ] = None,
    gpus_per_worker: Annotated[
        float | None, option(CLUSTER, "GPUs that each model actor takes; 0.5 puts two on a GPU.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure styles on photos, and compare them with other methods, mixes and training settings.

    Styles of several bases are evaluated base by base, and compared in a table.

    The same command resumes a killed evaluation.
    """
    check_above_zero(gpus_per_worker, "--gpus-per-worker")
    from factory.cli.retrain import retrain
    from pipelines.evaluation_bases import evaluate_bases
    from pipelines.published import DENSITY, TABLE_2
    from pipelines.variants import parse_sweep

    sweeps = [parse_sweep(s) for s in sweep or ()]
    if paper:
        density = density or DENSITY
        sweeps.append(("structure", list(TABLE_2)))
    terminal = sys.stderr.isatty()
    result = evaluate_bases(
        names(styles),
        photos,
        output,
        home=find_home(home),
        mix=assignments(mix, "--mix"),
        sweeps=sweeps,
        baselines=names(baselines),
        metrics=names(metrics),
        weights=weights,
        gate=gate or (),
        retrain=retrain,
        limit=limit,
        density=density,
        fit=fit,
        seed=seed,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        report=print_raw if terminal else print_progress,
        terminal=terminal,
    )
    print_document(result.to_dict(), _text(result), as_json)
    if not result.complete:
        raise typer.Exit(1)


def _text(result: EvaluationResult | Comparison) -> str:
    from pipelines.evaluation_bases import Comparison

    if not isinstance(result, Comparison):
        return _summary(result)
    blocks = [f"base {name}\n{_summary(each)}" for name, each in result.evaluations.items()]
    return "\n\n".join([*blocks, result.table()])


def _summary(result: EvaluationResult) -> str:
    """The table, then warnings, failures, the gate's decisions and the files."""
    from pipelines.evaluation_result import DOCUMENT, GRID

    lines = [result.table(), ""]
    if published := result.published_table():
        lines += [published, ""]
    lines += [f"warning: {text}" for text in result.warnings]
    lines += [f"failed: {count} x {reason}" for reason, count in result.failed.items()]
    lines += [f"{e['path']}: {e['reason']}" for e in result.errors[:50]]
    for style, missed in result.gate.items():
        decision = f"misses the gate ({'; '.join(missed)})" if missed else "meets the gate"
        lines.append(f"{result.styles[style]} {decision}")
    if result.stopped:
        lines.append(result.stopped)
    lines += [
        f"{result.photos} photo(s); intervals at 95 % from resampled photos",
        f"{result.output}/{DOCUMENT}, {GRID}",
    ]
    return "\n".join(lines)

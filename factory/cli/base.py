"""`style-factory base ...`: train, import, evaluate and list bases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from factory.cli.base_diffstyler import train_diffstyler
from factory.cli.base_guide import train_guide
from factory.cli.base_import import import_base
from factory.cli.base_predictor import train_predictor
from factory.cli.calls import Command, Group
from factory.cli.options import (
    CLUSTER,
    INPUTS,
    OUTPUTS,
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
from factory.cli.output import print_document, print_fields, print_progress

MEASUREMENT = "Measurement"
# Number of photos that `base evaluate --output` reconstructs.
SHOWN_PHOTOS = 8

app = typer.Typer(cls=Group, help="Train, import, evaluate and list bases.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the base.")]
OptionalNameArgument = Annotated[
    str | None, typer.Argument(metavar="NAME", help="Name of the base (default: the only one).")
]
ConfigOption = Annotated[
    str,
    option(
        INPUTS,
        "Configuration of the networks: ffhq256, horse128, portraits64 or a JSON file.",
        metavar="NAME",
    ),
]


app.command("import", cls=Command)(import_base)


@app.command(cls=Command)
def train(
    name: NameArgument,
    images: Annotated[str, option(INPUTS, "Folder or URI of photos of one domain.", metavar="DIR")],
    config: ConfigOption,
    start: Annotated[
        Path | None, option(INPUTS, "DiffAE checkpoint to start from.", metavar="FILE")
    ] = None,
    like: Annotated[
        str | None,
        option(
            INPUTS,
            "Base whose guide and perceptual net are used (default: the package's own).",
            metavar="NAME",
        ),
    ] = None,
    set_: SettingsOption = None,
    minutes: Annotated[
        float | None, option(TRAINING, "Stop after this time; the same command resumes.")
    ] = None,
    workers: Annotated[int, option(CLUSTER, "Workers that share every batch.", min=1)] = 1,
    licence: LicenceOption = "",
    replace: ReplaceOption = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a base on photos of your own."""
    from pipelines.base_training import train_base

    run = train_base(
        name,
        images,
        config=config,
        home=find_home(home),
        overrides=assignments(set_, "--set"),
        start=start,
        workers=workers,
        minutes=minutes,
        like=like,
        licence=licence,
        replace=replace,
        report=print_progress,
    )
    if run.info is not None:
        text = f"base {name} trained (fingerprint {run.info['fingerprint']})"
    else:
        text = f"stopped after {minutes:g} minute(s); the same command resumes"
    document = {"finished": run.finished, "left_out": run.left_out, "base": run.info}
    print_document(document, text, as_json)
    if not run.finished:
        raise typer.Exit(1)


@app.command(cls=Command)
def evaluate(
    images: Annotated[
        str, option(INPUTS, "Photos that the base was not trained on.", metavar="DIR")
    ],
    name: OptionalNameArgument = None,
    limit: Annotated[
        int | None, option(INPUTS, "Use only the first photos, up to this number.")
    ] = None,
    steps: Annotated[int, option(MEASUREMENT, "Steps of a full schedule.", min=1)] = 100,
    samples: Annotated[int, option(MEASUREMENT, "Samples for the Frechet distance.")] = 0,
    lpips: Annotated[
        Literal["vgg", "alex"] | None,
        option(
            MEASUREMENT, "Net of LPIPS to measure with (default: the base's own perceptual net)."
        ),
    ] = None,
    lpips_weights: Annotated[
        Path | None, option(MEASUREMENT, "Weights of LPIPS (default: download).", metavar="FILE")
    ] = None,
    output: Annotated[
        Path | None,
        option(OUTPUTS, "Folder for reconstructions and samples of the base.", metavar="DIR"),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how well a base reconstructs and samples photos."""
    from osasis.bundles.base import load_base
    from osasis.guides.perceptual import PerceptualNet
    from osasis.images.photo_set import read_photo_set
    from osasis.pretraining.evaluate_base import evaluate_base, save_evaluation_grids

    base = load_base(find_home(home).base_folder(name))
    photos = read_photo_set(images, base.config.image_size, print_progress).images(limit)
    evaluation, sampled = evaluate_base(
        base,
        photos,
        steps=steps,
        samples=samples,
        perceptual=PerceptualNet(lpips, lpips_weights) if lpips else None,
        report=print_progress,
    )
    if output is not None:
        save_evaluation_grids(base, photos[:SHOWN_PHOTOS], sampled, steps, output)
    print_fields({"base": base.name, **evaluation.to_dict()}, as_json)


app.command("train-diffstyler", cls=Command)(train_diffstyler)
app.command("train-guide", cls=Command)(train_guide)
app.command("train-predictor", cls=Command)(train_predictor)


@app.command("list", cls=Command)
def list_bases(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List all bases."""
    from factory.core import bases
    from factory.methods import image_size

    place = find_home(home)
    rows = bases.list_bases(place)
    lines = [
        f"{b['name']:32} {image_size(b)} px  {b['bytes'] / 1e6:7.1f} MB  {b['fingerprint']}"
        for b in rows
    ]
    if rows or as_json:
        print_document({"bases": rows}, "\n".join(lines), as_json)
    else:
        print_progress(f"no base in {place.shared(place.bases)}")


@app.command(cls=Command)
def info(
    name: OptionalNameArgument = None, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Show the parts of a base."""
    from factory.core.bases import describe_base

    print_fields(describe_base(find_home(home), name), as_json)

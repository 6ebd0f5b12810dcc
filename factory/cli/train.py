"""`style-factory train` and `style-factory text-edit`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from factory.cli.options import (
    CLUSTER,
    FAILURES,
    INPUTS,
    OUTPUTS,
    TRAINING,
    BaseOption,
    CatalogArgument,
    EstimateOption,
    HomeOption,
    JsonOption,
    NotifyOption,
    PresetOption,
    SettingsOption,
    assignments,
    find_home,
    memory_setting,
    names,
    option,
)
from factory.cli.output import print_document, print_fields, print_progress


def train(
    catalog: CatalogArgument,
    base: BaseOption = None,
    contents: Annotated[
        str | None,
        option(INPUTS, "Folder of photos to train on instead of the base's own.", metavar="DIR"),
    ] = None,
    previews: Annotated[
        str | None,
        option(
            INPUTS, "Folder of photos for the gallery (default: the base's own).", metavar="DIR"
        ),
    ] = None,
    preset: PresetOption = None,
    set_: SettingsOption = None,
    memory: Annotated[
        str | None,
        option(
            CLUSTER,
            "Memory for each style in training, such as 24GB; chooses micro_batch and recompute.",
            metavar="SIZE",
        ),
    ] = None,
    gate: Annotated[
        list[str] | None,
        option(
            TRAINING,
            "Condition for champion; a style that fails it is registered as candidate.",
            metavar="METRIC<=X",
        ),
    ] = None,
    slots: Annotated[
        int | None,
        option(CLUSTER, "Concurrently trained styles (default: one per GPU, else per CPU).", min=1),
    ] = None,
    gpus_per_slot: Annotated[
        float | None, option(CLUSTER, "GPUs that each slot takes, such as 0.5.")
    ] = None,
    retries: Annotated[int, option(FAILURES, "Retries per style.", min=0)] = 2,
    retry_on: Annotated[
        str,
        option(
            FAILURES,
            "Failure kinds to retry: died, memory, error, permanent, diverged, image, input.",
            metavar="KINDS",
        ),
    ] = "died,memory,error",
    progress: Annotated[
        Literal["auto", "table", "lines", "json", "none"],
        option(OUTPUTS, "How progress is shown; auto is a table in a terminal, else JSON lines."),
    ] = "auto",
    estimate: EstimateOption = False,
    notify: NotifyOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train and register every style of a catalog.

    Styles that are registered already are skipped; the same command resumes a killed run.
    """
    from factory.core.uris import redact
    from factory.core.webhooks import notified
    from factory.reports.results import STATES
    from factory.training.run import train as train_catalog

    run = partial(
        train_catalog,
        catalog,
        home=find_home(home),
        base=base,
        preset=preset,
        overrides=assignments(set_, "--set") | memory_setting(memory),
        slots=slots,
        gpus_per_slot=gpus_per_slot,
        retries=retries,
        retry_on=names(retry_on),
        gate=gate or (),
        contents=contents,
        previews=previews,
        progress=progress,
    )
    if estimate:
        print_fields(run(estimate=True).estimate, as_json)
        return
    with notified(notify, "train", {"catalog": redact(catalog)}, print_progress) as finish:
        result = run()
        finish(not result.failed, {state: result.count(state) for state in STATES})
    print_document(result.to_dict(), result.summary(), as_json)
    if result.failed:
        raise typer.Exit(1)


def text_edit(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the text edit to make.")],
    source: Annotated[str, option(INPUTS, 'What the photos show, such as "a face".')],
    target: Annotated[str, option(INPUTS, 'What they should show, such as "a smiling face".')],
    base: BaseOption = None,
    photos: Annotated[
        Path | None,
        option(INPUTS, "Folder of photos to optimise on (default: the base's own).", metavar="DIR"),
    ] = None,
    iterations: Annotated[int, option(TRAINING, "Optimiser iterations.", min=1)] = 100,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a direction between two texts, for `--mix text_edit=NAME`."""
    from factory.methods.text_edits import make_text_edit

    place = find_home(home)
    edit = make_text_edit(
        place, name, source, target, base=base, photos=photos, iterations=iterations
    )
    document = {
        "name": name,
        "source": edit.source,
        "target": edit.target,
        "folder": place.shared(place.text_edits / name),
        "loss_first": edit.history[0],
        "loss_last": edit.history[-1],
    }
    print_fields(document, as_json)

"""`style-factory stylize`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from factory.cli.calls import CommandInterruptedError
from factory.cli.options import (
    CLUSTER,
    FAILURES,
    INPUTS,
    OUTPUTS,
    HomeOption,
    JsonOption,
    assignments,
    check_above_zero,
    find_home,
    names,
)
from factory.cli.output import print_json, print_progress, print_result

MIX = "Mix"
# Bad photos that the terminal lists; the table of errors has all.
SHOWN_ERRORS = 50


def stylize(
    source: Annotated[
        str,
        typer.Option(
            "--input",
            metavar="PHOTOS",
            help="Folder, glob, list (.txt), photo, Parquet, or a URI of one of these.",
            rich_help_panel=INPUTS,
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="Folder for the images and the job's state.",
            rich_help_panel=OUTPUTS,
        ),
    ],
    styles: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Styles, comma-separated: a, b@champion, c:3.",
            rich_help_panel=INPUTS,
        ),
    ] = "",
    image_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Column of a Parquet input that holds bytes or paths.",
            rich_help_panel=INPUTS,
        ),
    ] = None,
    fit: Annotated[
        Literal["crop", "pad", "resize", "align"],
        typer.Option(
            help="How a photo is fitted to the base's square; align finds faces.",
            rich_help_panel=INPUTS,
        ),
    ] = "crop",
    no_face: Annotated[
        Literal["error", "crop", "keep"],
        typer.Option(
            help="What --fit align does with a photo without a face: list it as an error, crop "
            "it, or keep it as it is.",
            rich_help_panel=INPUTS,
        ),
    ] = "error",
    mix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A mix parameter: strength, content_cutoff, structure, decode_steps, ...; may be "
            "given several times.",
            rich_help_panel=MIX,
        ),
    ] = None,
    mix_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="JSON file of mix parameters; --mix takes precedence over it.",
            rich_help_panel=MIX,
        ),
    ] = None,
    size: Annotated[
        Literal["photo", "base"],
        typer.Option(
            help="Size of the outputs: the photo's own, or the base's square.",
            rich_help_panel=OUTPUTS,
        ),
    ] = "photo",
    detail: Annotated[
        bool,
        typer.Option(
            "--detail",
            help="Carry the style up to the photo's resolution.",
            rich_help_panel=OUTPUTS,
        ),
    ] = False,
    format: Annotated[
        Literal["png", "jpeg", "jpg", "webp", "parquet"],
        typer.Option(help="Format of the outputs.", rich_help_panel=OUTPUTS),
    ] = "png",
    encoding: Annotated[
        Literal["png", "jpeg", "webp"] | None,
        typer.Option(
            help="Encoding of the images in Parquet (default: png).", rich_help_panel=OUTPUTS
        ),
    ] = None,
    quality: Annotated[
        int,
        typer.Option(min=1, max=100, help="Quality of JPEG and WebP.", rich_help_panel=OUTPUTS),
    ] = 90,
    metadata: Annotated[
        Literal["strip", "keep"],
        typer.Option(help="What happens to the photo's EXIF.", rich_help_panel=OUTPUTS),
    ] = "strip",
    no_contact_sheet: Annotated[
        bool,
        typer.Option("--no-contact-sheet", help="Write no contact.html.", rich_help_panel=OUTPUTS),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Model actors (default: one per GPU, else one per CPU).",
            rich_help_panel=CLUSTER,
        ),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            help="GPUs that each model actor takes; 0.5 puts two on a GPU.",
            rich_help_panel=CLUSTER,
        ),
    ] = None,
    readers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Photos read at the same time (default: half the CPUs).",
            rich_help_panel=CLUSTER,
        ),
    ] = None,
    max_errors: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Stop the job after more than this many errors.",
            rich_help_panel=FAILURES,
        ),
    ] = None,
    timeout_per_image: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Seconds for reading a photo, and for writing its outputs.",
            rich_help_panel=FAILURES,
        ),
    ] = None,
    retry_errors: Annotated[
        bool,
        typer.Option(
            "--retry-errors",
            help="Try again the photos that failed in an earlier run.",
            rich_help_panel=FAILURES,
        ),
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stylize a corpus of photos in registered styles.

    The same command finishes a killed job. Photos that cannot be stylized are listed in
    OUTPUT/errors.parquet.
    """
    check_above_zero(gpus_per_worker, "--gpus-per-worker")
    check_above_zero(timeout_per_image, "--timeout-per-image")
    import pipelines

    terminal = sys.stderr.isatty()
    try:
        result = pipelines.stylize(
            names(styles),
            source,
            output,
            home=find_home(home),
            mix=assignments(mix, "--mix"),
            mix_file=mix_file,
            fit=fit,
            size=size,
            detail=detail,
            format=format,
            encoding=encoding,
            quality=quality,
            metadata=metadata,
            no_face=no_face,
            image_column=image_column,
            workers=workers,
            readers=readers,
            gpus_per_worker=gpus_per_worker,
            max_errors=max_errors,
            timeout_per_image=timeout_per_image,
            retry_errors=retry_errors,
            contact_sheet=not no_contact_sheet,
            report=_print_to_terminal if terminal else print_progress,
            terminal=terminal,
        )
    except KeyboardInterrupt:
        message = "stopped; the same command goes on where this one ended"
        raise CommandInterruptedError(message) from None
    if as_json:
        print_json(result.to_dict())
    else:
        _print_summary(result)
    if result.errors or result.stopped:
        raise typer.Exit(1)


def _print_summary(result: Any) -> None:
    """Print each bad photo once, however many styles it lacks, and the count of images."""
    reasons = list(dict.fromkeys((e["path"], e["reason"]) for e in result.errors))
    for path, reason in reasons[:SHOWN_ERRORS]:
        print_result(f"{path}: {reason}")
    if (more := len(reasons) - SHOWN_ERRORS) > 0:
        print_result(f"... and {more} more; all are in {result.output / 'errors.parquet'}")
    print_result(f"{result.images} image(s) in {result.output}")


def _print_to_terminal(text: str) -> None:
    """Print progress that moves the cursor itself."""
    print(text, end="", file=sys.stderr, flush=True)

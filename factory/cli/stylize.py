"""`style-factory stylize`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

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
    option,
)
from factory.cli.output import print_document, print_progress, print_raw
from osasis import choices
from osasis.errors import UserError

if TYPE_CHECKING:
    from pipelines.result import StylizeResult

MIX = "Mix"
# Maximum number of failed photos to print; errors.parquet lists all.
SHOWN_ERRORS = 50


def stylize(
    source: Annotated[
        str,
        option(
            INPUTS,
            "Folder, glob, list (.txt), photo, Parquet, or a URI of one of these.",
            "--input",
            metavar="PHOTOS",
        ),
    ],
    output: Annotated[
        str,
        option(
            OUTPUTS,
            "Folder for the images and the job's state, or an s3:// URI.",
            metavar="DIR",
        ),
    ],
    styles: Annotated[
        str, option(INPUTS, "Styles, comma-separated: a, b@champion, c:3.", metavar="NAMES")
    ] = "",
    image_column: Annotated[
        str | None,
        option(INPUTS, "Column of a Parquet input that holds bytes or paths.", metavar="NAME"),
    ] = None,
    fit: Annotated[
        choices.Fit,
        option(INPUTS, "How a photo is fitted to the base's square; align finds faces."),
    ] = "crop",
    crop: Annotated[
        str | None,
        option(
            INPUTS,
            "The square of each photo that --fit crop takes, in pixels (default: the central one).",
            metavar="X,Y,SIDE",
        ),
    ] = None,
    no_face: Annotated[
        choices.NoFace,
        option(
            INPUTS,
            "What --fit align does with a photo without a face: list it as an error, crop "
            "it, or keep it as it is.",
        ),
    ] = "error",
    mix: Annotated[
        list[str] | None,
        option(
            MIX,
            "A mix parameter: strength, content_cutoff, structure, decode_steps, ...; may be "
            "given several times.",
            metavar="NAME=VALUE",
        ),
    ] = None,
    mix_file: Annotated[
        Path | None,
        option(
            MIX,
            "JSON or YAML file of mix parameters; --mix takes precedence over it.",
            metavar="FILE",
        ),
    ] = None,
    mask: Annotated[
        list[str] | None,
        option(
            MIX,
            "Greyscale image of a mask that the mix names, applied to every photo; may be given "
            "several times.",
            metavar="NAME=FILE",
        ),
    ] = None,
    size: Annotated[
        choices.OutputSize,
        option(OUTPUTS, "Size of the outputs: the photo's own, or the base's square."),
    ] = "photo",
    detail: Annotated[
        bool, option(OUTPUTS, "Carry the style up to the photo's resolution.", "--detail")
    ] = False,
    format: Annotated[
        Literal[choices.OutputFormat, "jpg"], option(OUTPUTS, "Format of the outputs.")
    ] = "png",
    encoding: Annotated[
        choices.ImageFormat | None,
        option(OUTPUTS, "Encoding of the images in Parquet (default: png)."),
    ] = None,
    quality: Annotated[int, option(OUTPUTS, "Quality of JPEG and WebP.", min=1, max=100)] = 90,
    alpha: Annotated[
        choices.Alpha | None,
        option(
            OUTPUTS,
            "The photo's transparency: keep it in the outputs, or lay it over white (default: keep "
            "in PNG and WebP).",
        ),
    ] = None,
    metadata: Annotated[
        choices.Metadata, option(OUTPUTS, "Strip or keep the photo's EXIF.")
    ] = "strip",
    provenance: Annotated[
        choices.Provenance,
        option(
            OUTPUTS,
            "What the outputs tell: style, mix and the photo's name; full: the photo's path too; "
            "none: nothing.",
        ),
    ] = "style",
    no_contact_sheet: Annotated[
        bool, option(OUTPUTS, "Write no contact.html.", "--no-contact-sheet")
    ] = False,
    precision: Annotated[
        choices.Precision | None,
        option(OUTPUTS, "Arithmetic of the model (default: from each style's settings)."),
    ] = None,
    workers: Annotated[
        int | None, option(CLUSTER, "Model actors (default: one per GPU, else one per CPU).", min=1)
    ] = None,
    gpus_per_worker: Annotated[
        float | None, option(CLUSTER, "GPUs that each model actor takes; 0.5 puts two on a GPU.")
    ] = None,
    readers: Annotated[
        int | None, option(CLUSTER, "Photos read concurrently (default: half the CPUs).", min=1)
    ] = None,
    max_errors: Annotated[
        int | None, option(FAILURES, "Stop the job after more than this many errors.", min=0)
    ] = None,
    timeout_per_image: Annotated[
        float | None,
        option(
            FAILURES, "Seconds for reading a photo, and for writing its outputs.", metavar="SECONDS"
        ),
    ] = None,
    retry_errors: Annotated[
        bool,
        option(FAILURES, "Retry photos that failed in an earlier run.", "--retry-errors"),
    ] = False,
    frozen: Annotated[
        bool,
        option(INPUTS, "Refuse an input that has changed since the run before.", "--frozen"),
    ] = False,
    update: Annotated[
        bool,
        option(
            OUTPUTS,
            "Take up other styles, mixes, masks or options than the run before, and make again "
            "what differs.",
            "--update",
        ),
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stylize a corpus of photos in registered styles.

    The same command resumes a killed job. Photos that cannot be stylized are listed in
    OUTPUT/errors.parquet.
    """
    check_above_zero(gpus_per_worker, "--gpus-per-worker")
    check_above_zero(timeout_per_image, "--timeout-per-image")
    import pipelines

    terminal = sys.stderr.isatty()
    result = pipelines.stylize(
        names(styles),
        source,
        output,
        home=find_home(home),
        mix=assignments(mix, "--mix"),
        mix_file=mix_file,
        fit=fit,
        crop=crop,
        size=size,
        detail=detail,
        format=format,
        encoding=encoding,
        quality=quality,
        alpha=alpha,
        metadata=metadata,
        provenance=provenance,
        no_face=no_face,
        precision=precision,
        masks=_mask_files(mask or []),
        image_column=image_column,
        workers=workers,
        readers=readers,
        gpus_per_worker=gpus_per_worker,
        max_errors=max_errors,
        timeout_per_image=timeout_per_image,
        retry_errors=retry_errors,
        frozen=frozen,
        update=update,
        contact_sheet=not no_contact_sheet,
        report=print_raw if terminal else print_progress,
        terminal=terminal,
    )
    print_document(result.to_dict(), _summary(result), as_json)
    if result.errors or result.stopped:
        raise typer.Exit(1)


def _mask_files(given: list[str]) -> dict[str, str]:
    """Mask files by name, from NAME=FILE. Raises UserError."""
    files: dict[str, str] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not equals or not name or not file:
            raise UserError(f"--mask is {text!r}; it must be NAME=FILE")
        if name in files:
            raise UserError(f"--mask names {name!r} twice; give one file for each mask")
        files[name] = file
    return files


def _summary(result: StylizeResult) -> str:
    """Summary text: one line per failed photo, then the number of images."""
    reasons = list(dict.fromkeys((e["path"], e["reason"]) for e in result.errors))
    lines = [f"{path}: {reason}" for path, reason in reasons[:SHOWN_ERRORS]]
    if (more := len(reasons) - SHOWN_ERRORS) > 0:
        lines.append(f"... and {more} more; all are in {result.output}/errors.parquet")
    return "\n".join([*lines, f"{result.images} image(s) in {result.output}"])

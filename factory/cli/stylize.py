"""`style-factory stylize`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from factory.cli.options import (
    CLUSTER,
    FAILURES,
    INPUTS,
    OUTPUTS,
    EstimateOption,
    HomeOption,
    JsonOption,
    NotifyOption,
    assignments,
    check_above_zero,
    find_home,
    names,
    option,
)
from factory.cli.output import print_document, print_fields, print_progress, print_raw
from osasis import choices
from osasis.errors import UserError

if TYPE_CHECKING:
    from pipelines.result import StylizeResult

MIX = "Mix"
REGIONS = get_args(choices.MaskRegion)
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
            "Folder or URI for the images and the job's state.",
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
            "several times. Or subject, background, face or hair: a mask that the segmenter "
            "proposes for each photo, which mixes name `photo`.",
            metavar="NAME=FILE|REGION",
        ),
    ] = None,
    segmenter: Annotated[
        choices.SegmenterName | None,
        option(MIX, "What proposes the masks of the photos (default: grabcut)."),
    ] = None,
    segmenter_set: Annotated[
        list[str] | None,
        option(
            MIX,
            "A setting of the segmenter: model (its file), points, box, pixels, channels; may be "
            "given several times.",
            "--segmenter-set",
            metavar="NAME=VALUE",
        ),
    ] = None,
    masks: Annotated[
        str | None,
        option(
            MIX,
            "Folder or URI with a mask for each photo, of the photo's name below it with any image "
            "suffix. Mixes name it `photo`; one without masks is limited to it.",
            metavar="DIR|URI",
        ),
    ] = None,
    save_masks: Annotated[
        str | None,
        option(OUTPUTS, "Folder for the masks of the photos.", metavar="DIR"),
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
    estimate: EstimateOption = False,
    notify: NotifyOption = None,
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
    from factory.core.uris import redact
    from factory.core.webhooks import notified

    terminal = sys.stderr.isatty()
    run = partial(
        pipelines.stylize,
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
        masks=_mask_files([m for m in mask or [] if m not in REGIONS]),
        photo_masks=masks,
        mask_region=_region(mask or []),
        segmenter={
            **({"name": segmenter} if segmenter else {}),
            **assignments(segmenter_set, "--segmenter-set"),
        },
        save_masks=save_masks,
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
    if estimate:
        print_fields(run(estimate=True).estimate, as_json)
        return
    facts = {"input": redact(source), "output": redact(output)}
    with notified(notify, "stylize", facts, print_progress) as finish:
        result = run()
        told = {"photos": result.photos, "images": result.images, "failed": result.failed}
        succeeded = not (result.errors or result.stopped)
        finish(succeeded, {**told, "stopped": result.stopped})
    print_document(result.to_dict(), _summary(result), as_json)
    if result.errors or result.stopped:
        raise typer.Exit(1)


def _region(given: list[str]) -> str | None:
    """The region whose mask is proposed, if ``--mask`` names one. Raises UserError."""
    regions = [m for m in given if m in REGIONS]
    if len(regions) > 1:
        raise UserError(f"--mask names {regions[0]} and {regions[1]}; one mask can be proposed")
    return regions[0] if regions else None


def _mask_files(given: list[str]) -> dict[str, str]:
    """Mask files by name, from NAME=FILE. Raises UserError."""
    files: dict[str, str] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not equals or not name or not file:
            regions = ", ".join(REGIONS)
            raise UserError(f"--mask is {text!r}; it must be NAME=FILE, or one of {regions}")
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

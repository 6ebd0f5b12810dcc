"""`style-factory stylize`: stylize a corpus of photos in registered styles, on Ray Data.

A job keeps its state in a folder below the output. The same call resumes a killed job; its outputs
are byte for byte those of an uninterrupted run. A photo that cannot be stylized is a row in
``errors.parquet`` and does not stop the job.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from factory.core.home import Home
from factory.core.stores import local_folder
from factory.core.uris import is_local_uri, is_uri, local_path, locate, redact
from factory.methods import check_fit, read_base_info
from osasis.bundles.provenance import FORMATS
from osasis.errors import UserError
from osasis.mix import PHOTO_MASK
from pipelines.corpus_run import CorpusRun
from pipelines.estimate import estimated_result
from pipelines.job_folder import JobFolder
from pipelines.job_revision import known_names, take_up
from pipelines.manifest import build_manifest
from pipelines.masks import masks_of_photos, photo_mask_files, read_masks
from pipelines.options import OutputOptions
from pipelines.parquet_output import check_columns
from pipelines.progress import Progress
from pipelines.result import StylizeResult
from pipelines.source import Source, open_source
from pipelines.stream import plan_workers
from pipelines.targets import ROW_FIELDS, Targets, common_targets, read_mix_file, row_targets


def stylize(
    styles: Sequence[str],
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    home: Home | None = None,
    mix: dict[str, Any] | None = None,
    mix_file: str | os.PathLike[str] | None = None,
    fit: str = "crop",
    crop: str | dict[str, int] | None = None,
    size: str = "photo",
    detail: bool = False,
    format: str = "png",
    encoding: str | None = None,
    quality: int = 90,
    alpha: str | None = None,
    metadata: str = "strip",
    provenance: str = "style",
    no_face: str = "error",
    precision: str | None = None,
    masks: Mapping[str, str | os.PathLike[str]] | None = None,
    photo_masks: str | os.PathLike[str] | None = None,
    mask_region: str | None = None,
    segmenter: Mapping[str, Any] | None = None,
    save_masks: str | os.PathLike[str] | None = None,
    image_column: str | None = None,
    workers: int | None = None,
    readers: int | None = None,
    gpus_per_worker: float | None = None,
    max_errors: int | None = None,
    timeout_per_image: float | None = None,
    retry_errors: bool = False,
    frozen: bool = False,
    update: bool = False,
    contact_sheet: bool = True,
    estimate: bool = False,
    report: Callable[[str], None] | None = None,
    terminal: bool = False,
) -> StylizeResult:
    """Stylize every photo of a corpus in every style; the same call resumes an unfinished job.

    styles: ``name``, ``name@alias`` or ``name:version``; may be empty if the mix or the input's
    rows name them. source: folder, glob, list (.txt), photo, Parquet, or a URI of one of these.
    output: a folder on storage that all nodes share, or a URI of an object store. home: the
    factory's home; default ``Home.find()``. mix, mix_file: fields of ``osasis.mix.Mix``; a mix
    with ``styles`` is one blend. Columns of a Parquet input named like fields of the mix (and
    ``style``, ``weight``) override them for their row.
    fit, crop, size, detail, format, encoding, quality, alpha, metadata, provenance, no_face,
    precision: see ``OutputOptions``. masks: an image file for each mask that the mix names, applied
    to every photo. photo_masks: folder or URI with a mask for each photo, see
    ``photo_mask_files``; a mix without masks is limited to it, another names it ``photo``. A column
    ``mask`` of a Parquet input does the same. mask_region, segmenter: the mask that a segmenter
    proposes for each photo instead, see ``MaskProposal``. save_masks: folder for the masks of the
    photos, as greyscale PNGs. image_column: column of a Parquet input with image bytes or paths.
    workers: model actors. gpus_per_worker: GPUs per model actor; may be a fraction. readers:
    concurrent reading tasks, and concurrent writing tasks. max_errors: stop the job after more
    new errors than this. timeout_per_image: seconds for reading and fitting a photo, and for
    encoding an output. retry_errors: retry the failures of earlier runs. frozen: refuse
    an input that has changed since the run before; otherwise its new and changed photos are made.
    update: take up other styles, mixes, masks, options or another base than the run before, too,
    and make again what differs. contact_sheet: write ``contact.html``. estimate: make nothing, and
    fill ``estimate`` of the result. report: called with each progress line. terminal: progress
    lines are text for a terminal instead of JSON.

    If a full disk or the loss of the folder stops the job, ``stopped`` of the result names the
    reason.
    Raises UserError for mistakes that concern the whole job, such as an unknown style or an output
    folder that holds another job, and DiskFullError where the job cannot begin.
    """
    home = home or Home.find()
    if format == "jpg":
        format = "jpeg"
    options = OutputOptions.parse(
        {
            "fit": fit,
            "crop": crop,
            "size": size,
            "detail": detail,
            "format": format,
            # An unknown format must not be reported as an unknown encoding too.
            "encoding": encoding or (format if format in FORMATS else "png"),
            "quality": quality,
            "alpha": alpha,
            "metadata": metadata,
            "provenance": provenance,
            "no_face": no_face,
            "precision": precision,
        }
    )
    if options.fit == "align":
        from osasis.images.faces import require_detector

        require_detector()
    mix_fields = {**(read_mix_file(mix_file) if mix_file else {}), **(mix or {})}
    if not styles and "styles" not in mix_fields and not os.fspath(source).endswith(".parquet"):
        raise UserError("no style is named; name at least one")
    folder = JobFolder(_output_location(source, os.fspath(output)))
    skip = local_folder(folder.output)
    corpus = open_source(source, column=image_column, row_fields=ROW_FIELDS, skip=skip)
    if options.format == "parquet":
        check_columns(corpus.tables)
    corpus = with_masks(corpus, photo_masks)
    own_masks = masks_of_photos(corpus, mask_region, segmenter, save_masks)
    targets = Targets(home, PHOTO_MASK if own_masks else None)
    common = common_targets(targets, list(styles), mix_fields)
    rows, problems = row_targets(targets, common, mix_fields, corpus.columns, corpus.count)
    if targets.base is None:
        first = next(iter(problems.values()), "no style is named; name at least one")
        raise UserError(first)
    check_fit(options, read_base_info(targets.base))
    mask_specs = read_masks(masks or {}, targets.targets, options, own_masks is not None)
    job = CorpusRun(
        home, options, corpus, targets, mask_specs, own_masks, folder, timeout_per_image
    )  # fmt: skip
    plan = partial(
        plan_workers,
        base=targets.base,
        workers=workers,
        readers=readers,
        gpus_per_worker=gpus_per_worker,
    )
    if estimate:
        manifest = build_manifest(corpus, rows, problems, job.output_names())
        return estimated_result(job, manifest, plan)
    progress = Progress(report, terminal)
    with folder.locked(progress.wait):
        names = job.output_names(known_names(folder))
        manifest = build_manifest(corpus, rows, problems, names)
        fingerprint = job.fingerprint(manifest)
        changes = take_up(folder, fingerprint, manifest, frozen=frozen, update=update)
        return job.run(
            manifest,
            progress,
            plan=plan,
            max_errors=max_errors,
            retry_errors=retry_errors,
            contact_sheet=contact_sheet,
            changes=changes,
        )


def with_masks(corpus: Source, given: str | os.PathLike[str] | None) -> Source:
    """A corpus with the masks of a folder or URI. Raises UserError."""
    if given is None:
        return corpus
    if corpus.masks is not None:
        raise UserError(
            "masks are named both by --masks and in the input (its column mask); name them once"
        )
    place = os.fspath(given)
    if corpus.kind == "folder" and Path(place).resolve().is_relative_to(
        Path(corpus.folder).resolve()
    ):
        raise UserError(
            f"--masks {place} is inside the input, so that its masks would be stylized; move it"
        )
    return replace(corpus, masks=photo_mask_files(given, corpus.listing["key"].to_pylist()))


def _output_location(source: str | os.PathLike[str], given: str) -> str:
    """The path or URI of the output. Raises UserError if it cannot be one."""
    location = locate(given, Path())
    shown = os.fspath(source)
    if is_uri(location):
        inside = f"{location.rstrip('/')}/".startswith(f"{redact(shown).rstrip('/')}/")
    else:
        output = Path(location)
        if os.path.lexists(output) and not os.path.isdir(output):  # noqa: PTH112
            what = "a link to nowhere" if os.path.islink(output) else "no folder"  # noqa: PTH114
            raise UserError(f"output {output} is {what}; give a folder")
        source_path = Path(local_path(shown) if is_local_uri(shown) else shown)
        below = output.resolve().is_relative_to(source_path.resolve())
        inside = below and os.path.isdir(source_path)  # noqa: PTH112
    if inside:
        raise UserError(f"output {location} is inside input {redact(shown)}; choose another folder")
    return location

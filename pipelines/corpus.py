"""`style-factory stylize`: a corpus of photos through registered styles, on Ray Data.

A job has a directory of its own below the output. Killed anywhere, the same call finishes what is
missing, and the outputs are those of an uninterrupted run, byte for byte. A bad photo is a row in
``errors.parquet``; nothing else stops.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from factory import __version__
from factory.core.home import Home
from factory.core.uris import is_uri, locate, redact
from osasis.bundles.base import read_base_info
from osasis.bundles.provenance import FORMATS
from osasis.errors import UserError
from osasis.storage import write_json
from pipelines.contact_sheet import write_contact
from pipelines.job_folder import DONE, FAILED, JobFolder
from pipelines.job_spec import JobSpec, MaskSpec, StyleSpec
from pipelines.manifest import build_manifest, listing_digest
from pipelines.masks import read_masks
from pipelines.options import OutputOptions
from pipelines.parquet_output import check_columns, write_tables
from pipelines.progress import Progress
from pipelines.result import CONTACT, SUMMARY, StylizeResult
from pipelines.source import Source, open_source
from pipelines.stream import connect, make_orders, plan_workers, stream
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
    size: str = "photo",
    detail: bool = False,
    format: str = "png",
    encoding: str | None = None,
    quality: int = 90,
    metadata: str = "strip",
    no_face: str = "error",
    precision: str | None = None,
    masks: Mapping[str, str | os.PathLike[str]] | None = None,
    image_column: str | None = None,
    workers: int | None = None,
    readers: int | None = None,
    gpus_per_worker: float | None = None,
    max_errors: int | None = None,
    timeout_per_image: float | None = None,
    retry_errors: bool = False,
    contact_sheet: bool = True,
    report: Callable[[str], None] | None = None,
    terminal: bool = False,
) -> StylizeResult:
    """Stylize every photo of a corpus in every style; the same call again finishes what is missing.

    styles: ``name``, ``name@alias`` or ``name:version``; may be empty where the mix or the input's
    rows name them. source: folder, glob, list (.txt), photo, Parquet, or a URI of any of these.
    output: a folder on storage that all nodes share. mix, mix_file: fields of ``osasis.mix.Mix``;
    with ``styles`` among them, one blend of several. Columns of a Parquet input named like fields
    of the mix (and ``style``, ``weight``) replace them row by row.
    fit, size, detail, format, encoding, quality, metadata, no_face, precision: see
    ``OutputOptions``. masks: a grey picture for each mask that the mix names, for every photo.
    workers, gpus_per_worker: model actors and what each takes of a GPU. readers: photos read (and
    written) at a time. max_errors: end early after more error rows. timeout_per_image: seconds
    for reading and fitting, and for writing, a photo. retry_errors: try again what failed in an
    earlier run. report: takes progress, one line at a time; terminal: lines for people.

    Raises UserError for mistakes that concern the whole run, among them an output that holds
    another job.
    """
    home = home or Home.find()
    if format == "jpg":
        format = "jpeg"
    options = OutputOptions.parse(
        {
            "fit": fit,
            "size": size,
            "detail": detail,
            "format": format,
            # An unknown format is one problem, not two.
            "encoding": encoding or (format if format in FORMATS else "png"),
            "quality": quality,
            "metadata": metadata,
            "no_face": no_face,
            "precision": precision,
        }
    )
    if options.fit == "align":
        from osasis.images.faces import require_detector

        require_detector()
    fields = {**(read_mix_file(mix_file) if mix_file else {}), **(mix or {})}
    if not styles and "styles" not in fields and not os.fspath(source).endswith(".parquet"):
        raise UserError("no style is named; name at least one")
    listed = open_source(source, column=image_column, row_fields=ROW_FIELDS)
    target_folder = _output_folder(source, os.fspath(output))
    if options.format == "parquet":
        check_columns(listed.table)
    targets = Targets(home)
    common = common_targets(targets, list(styles), fields)
    rows, problems = row_targets(
        targets, common, list(styles), fields, listed.columns, listed.count
    )
    if targets.base is None:
        first = next(iter(problems.values()), "no style is named; name at least one")
        raise UserError(first)
    square = read_base_info(targets.base)["config"]["image_size"]
    mask_specs = read_masks(masks or {}, targets.targets, options.fit, square)
    folder = JobFolder(target_folder)
    with folder.locked():
        job = CorpusRun(home, options, listed, targets, mask_specs, folder, timeout_per_image)
        progress = Progress(report, terminal)
        return job.run(
            build_manifest(listed, rows, problems),
            progress,
            workers=(workers, readers, gpus_per_worker),
            max_errors=max_errors,
            retry_errors=retry_errors,
            contact_sheet=contact_sheet,
        )


def _output_folder(source: str | os.PathLike[str], given: str) -> Path:
    """The folder that an output names. Raises UserError where it cannot be one."""
    if is_uri(given) and not given.startswith("file:///"):
        raise UserError(
            f"output {redact(given)}: outputs are renamed into place and the job's folder is "
            "locked, which object stores cannot do; give a folder that all nodes share (such as "
            "a mount of the store), and copy it there when the job is done"
        )
    output = Path(locate(given, Path()))
    read = Path(source)
    if output.exists() and not output.is_dir():
        raise UserError(f"output {output} is a file; give a folder")
    if read.is_dir() and output.resolve().is_relative_to(read.resolve()):
        raise UserError(f"output {output} lies inside input {source}; choose another folder")
    return output


class CorpusRun:
    """One run of a job, from its manifest to its summary."""

    def __init__(
        self, home: Home, options: OutputOptions, source: Source, targets: Targets,
        masks: dict[str, MaskSpec], folder: JobFolder, timeout: float | None,
    ) -> None:  # fmt: skip
        assert targets.base is not None
        info = read_base_info(targets.base)
        self.source, self.folder = source, folder
        self.spec = JobSpec(
            code=__version__,
            folder=str(folder.path.resolve()),
            output=str(folder.output.resolve()),
            run=folder.run,
            base=str(targets.base),
            base_fingerprint=info["fingerprint"],
            square=info["config"]["image_size"],
            styles={
                name: StyleSpec(
                    reference=v.reference, fingerprint=v.fingerprint, folder=str(v.folder())
                )
                for name, v in targets.versions.items()
            },
            targets=tuple(targets.targets),
            text_edits=str(home.text_edits),
            options=options,
            masks=masks,
            image=source.image,
            timeout=timeout,
        )

    def fingerprint(self, manifest: pa.Table) -> dict[str, Any]:
        """What tells this job from others; a field that differs is named to the user."""
        spec = self.spec
        return {
            "code": spec.code,
            "base": spec.base_fingerprint,
            "styles": {n: f"{s.reference} ({s.fingerprint})" for n, s in spec.styles.items()},
            "options": spec.options.fingerprint(),
            "targets": [t.mix.to_dict() for t in spec.targets],
            **({"masks": {n: m.sha256 for n, m in spec.masks.items()}} if spec.masks else {}),
            "input": f"{manifest.num_rows} photo(s), {listing_digest(manifest)}",
        }

    def run(
        self, manifest: pa.Table, progress: Progress,
        *, workers: tuple[int | None, int | None, float | None],
        max_errors: int | None, retry_errors: bool, contact_sheet: bool,
    ) -> StylizeResult:  # fmt: skip
        started = time.perf_counter()
        folder = self.folder
        resumed = folder.open(self.fingerprint(manifest), manifest)
        if retry_errors:
            folder.forget_errors()
        self._note_problems()
        before = folder.count(DONE)
        text = f"{manifest.num_rows} photo(s) in {len(self.spec.targets)} way(s) to {folder.output}"
        if resumed:
            text += f"; {before} of {len(folder.state)} image(s) are there already"
        progress.start(text, len(folder.state), before + folder.count(FAILED))
        self.early = ""
        models = self._stream(progress, workers, max_errors)
        if self.spec.options.format == "parquet" and not self.early and folder.parts:
            connect()
            write_tables(folder, self.spec, self.source.table)
        seconds = time.perf_counter() - started
        result = self._result(seconds, before, models)
        write_json(result.output / SUMMARY, result.to_dict())
        if contact_sheet:
            write_contact(result.output / CONTACT, result, self.spec, folder)
        said = f"{result.done_now} image(s) in {seconds:.1f} s"
        if result.done_now:
            said += f" ({result.done_now / max(seconds, 1e-9):.1f} a second)"
        said += f", {result.failed} failed" if result.failed else ""
        progress.say(
            said + (f"; {self.early}" if self.early else ""), "end",
            images=result.images, failed=result.failed, seconds=round(seconds, 2),
        )  # fmt: skip
        return result

    def _note_problems(self) -> None:
        """Rows whose own columns ask for what cannot be are errors before anything runs."""
        from pipelines.job_folder import write_records

        records = [
            {"photo": i, "target": -1, "status": "error", "stage": "mix", "reason": problem}
            for i, problem in enumerate(self.folder.manifest["problem"].to_pylist())
            if problem is not None and self.folder.state[self.folder.first[i]] == 0
        ]
        if records:
            write_records(self.spec.folder, self.folder.run, records)
            self.folder.gather()

    def _stream(
        self, progress: Progress, workers: tuple[int | None, int | None, float | None],
        max_errors: int | None,
    ) -> int:  # fmt: skip
        """Do what is missing; returns how many model actors did it."""
        folder = self.folder
        missing = folder.missing()
        if not missing:
            return 0
        connect()
        plan = plan_workers(len(missing), *workers)
        self.spec = self.spec.replace(batch=plan.batch)
        groups = None
        if self.source.image is not None:
            listing = self.source.listing
            groups = list(zip(listing["path"].to_pylist(), listing["group"].to_pylist(),
                              strict=True))  # fmt: skip
        errors_before = folder.count(FAILED)

        def watch() -> bool:
            folder.gather()
            failed = folder.count(FAILED)
            progress.update(folder.count(DONE) + failed, failed, *folder.computed())
            if max_errors is not None and failed - errors_before > max_errors and not self.early:
                self.early = f"stopped after more than {max_errors} error(s) (--max-errors)"
                folder.stop()
            return not self.early

        try:
            stream(make_orders(missing, groups, plan), self.spec, plan, watch)
        except KeyboardInterrupt:
            folder.stop()
            progress.say("stopping: what is in flight is finished first", "stopping")
            raise
        return plan.models

    def _result(self, seconds: float, before: int, models: int) -> StylizeResult:
        folder = self.folder
        errors = folder.error_rows(self.spec.targets)
        folder.write_errors(errors)
        facts = [f for f in folder.facts if f.get("run") == folder.run]
        busy = sum(f["busy"] for f in facts)
        span = 0.0
        if facts:
            first = min(f["ended"] - f["busy"] for f in facts)
            span = max(f["ended"] for f in facts) - first
        reasons: dict[str, int] = {}
        for row in errors:
            reason = f"{row['stage']}: {row['reason']}"
            reasons[reason] = reasons.get(reason, 0) + 1
        return StylizeResult(
            photos=folder.manifest.num_rows,
            styles=tuple(s.reference for s in self.spec.styles.values()),
            images=folder.count(DONE),
            errors=tuple(errors),
            output=folder.output,
            seconds=seconds,
            done_before=before,
            stopped=self.early,
            model_seconds=busy,
            model_share=min(1.0, busy / (span * models)) if span and models else 0.0,
            passes=sum(f["passes"] for f in facts),
            reasons=dict(sorted(reasons.items(), key=lambda r: -r[1])),
        )

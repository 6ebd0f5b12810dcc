"""One run of a corpus job: from its manifest to its outputs, errors and summary."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from factory import __version__
from factory.core.disk import find_refusal
from factory.core.failures import find_user_error
from factory.core.home import Home
from factory.core.object_store import StoreError
from factory.core.stores import local_folder
from factory.methods import image_size, keeps_photo, read_base_info
from factory.registry.shared_bundle import shared_bundle
from osasis.bundles.provenance import FORMATS
from osasis.images.listing import describe_left_out, sorted_counts
from osasis.mix import PHOTO_MASK
from osasis.storage import DiskFullError, json_bytes
from pipelines.contact_sheet import write_contact_sheet
from pipelines.job_folder import DONE, FAILED, MISSING, JobFolder, OutputRecord, write_records
from pipelines.job_revision import InputChanges
from pipelines.job_spec import JobSpec, MaskSpec, PhotoMasks, StyleSpec
from pipelines.manifest import MANIFEST, listing_digest, output_names
from pipelines.options import OutputOptions
from pipelines.parquet_output import write_tables
from pipelines.photo_listing import absolute
from pipelines.progress import Progress
from pipelines.result import SUMMARY, StylizeResult
from pipelines.source import Source
from pipelines.stream import Workers, connect, make_read_tasks, run_pipeline
from pipelines.targets import Targets


class JobLostError(Exception):
    """The job's folder is gone, or another driver has taken it over."""


class CorpusRun:
    """One run of a job, from its manifest to its summary."""

    def __init__(
        self, home: Home, options: OutputOptions, source: Source, targets: Targets,
        masks: dict[str, MaskSpec], photo_masks: PhotoMasks | None, folder: JobFolder,
        timeout: float | None,
    ) -> None:  # fmt: skip
        assert targets.base is not None
        info = read_base_info(targets.base)
        self.source, self.folder = source, folder
        self.stop_reason = ""
        self.shortened_names = 0
        self.lost = False
        self.spec = JobSpec(
            code=__version__,
            output=absolute(folder.output.location),
            run=folder.run,
            base=home.base_location(targets.base),
            base_fingerprint=info["fingerprint"],
            square=image_size(info),
            styles={
                name: StyleSpec(
                    reference=v.reference,
                    fingerprint=v.fingerprint,
                    folder=shared_bundle(v, home),
                    keeps_photo=keeps_photo(v.folder()),
                )
                for name, v in targets.versions.items()
            },
            targets=tuple(targets.targets),
            text_edits=home.shared(home.text_edits),
            options=options,
            masks=masks,
            photo_masks=photo_masks,
            image_column=source.image_column,
            input=source.folder,
            timeout=timeout,
        )

    def output_names(self, known: Mapping[bytes, Sequence[bytes]] | None = None) -> list[bytes]:
        """The output name of each photo. Those in Parquet need not fit a file name.

        known: names by key of an earlier run, which photos keep.
        """
        options = self.spec.options
        keys = self.source.listing["key"].to_pylist()
        if options.format == "parquet":
            return output_names(keys, sys.maxsize)[0]
        output = self.folder.output
        # Names as the store can hold them, so that no two photos get the same one.
        keys = [os.fsencode(output.name_of(key)) for key in keys]
        known = {os.fsencode(output.name_of(key)): names for key, names in (known or {}).items()}
        longest = output.longest_name - len(FORMATS[options.encoding])
        names, self.shortened_names = output_names(keys, longest, known)
        return names

    def fingerprint(self, manifest: pa.Table) -> dict[str, Any]:
        """The fields that identify a job. Only a call with the same fields resumes the job."""
        spec = self.spec
        masks: dict[str, Any] = {name: mask.sha256 for name, mask in spec.masks.items()}
        if spec.photo_masks is not None:
            masks[PHOTO_MASK] = spec.photo_masks.identity()
        return {
            "code": spec.code,
            "base": spec.base_fingerprint,
            "styles": {n: f"{s.reference} ({s.fingerprint})" for n, s in spec.styles.items()},
            "options": spec.options.fingerprint(),
            **({"folder": spec.input} if spec.options.provenance == "full" else {}),
            "targets": [t.mix.to_dict() for t in spec.targets],
            **({"masks": masks} if masks else {}),
            "input": f"{manifest.num_rows} photo(s), {listing_digest(manifest)}",
        }

    def run(
        self, manifest: pa.Table, progress: Progress,
        *, plan: Callable[[int], Workers], max_errors: int | None, retry_errors: bool,
        contact_sheet: bool, changes: InputChanges | None = None,
    ) -> StylizeResult:  # fmt: skip
        """changes: of the input since the run before, which the result tells."""
        started = time.perf_counter()
        folder = self.folder
        resumed = folder.open(self.fingerprint(manifest), manifest)
        self.spec = self.spec.replace(folder=absolute(folder.place.location))
        if retry_errors:
            folder.reset_failed()
            if folder.full is not None and folder.count(MISSING):
                raise folder.full
        self._record_row_errors()
        done_before = folder.count(DONE)
        total = len(folder.state)
        self._report_listing(progress)
        if changes is not None and str(changes):
            text = f"the input has changed since the last run: {changes}"
            progress.emit(text, "changes", **changes.to_dict())
        output = folder.output.location
        text = f"{manifest.num_rows} photo(s), {len(self.spec.targets)} mix(es) to {output}"
        if resumed:
            text += f"; {done_before} of {total} image(s) exist"
        progress.start(text, total, done_before + folder.count(FAILED))
        models = self._make_outputs(progress, plan, max_errors)
        seconds = time.perf_counter() - started
        result = self._result(seconds, done_before, models, contact_sheet, changes)
        text = f"{result.done_now} image(s) in {seconds:.1f} s"
        if result.done_now:
            text += f" ({result.done_now / max(seconds, 1e-9):.1f} a second)"
        text += f", {result.failed} failed" if result.failed else ""
        progress.emit(
            text + (f"; {result.stopped}" if result.stopped else ""), "end",
            images=result.images, failed=result.failed, seconds=round(seconds, 2),
        )  # fmt: skip
        return result

    def _report_listing(self, progress: Progress) -> None:
        """Report files that are left out, and names that are shortened, in one line each."""
        if left_out := self.source.left_out:
            progress.emit(
                describe_left_out(left_out), "left_out", kinds=sorted_counts(left_out)
            )  # fmt: skip
        if count := self.shortened_names:
            text = "1 output name is" if count == 1 else f"{count} output names are"
            text += " too long for a file and shortened with a hash (see name in "
            progress.emit(
                f"{text}{self.folder.place.location}/{MANIFEST})", "shortened_names", count=count
            )

    def _make_outputs(
        self, progress: Progress, plan: Callable[[int], Workers], max_errors: int | None
    ) -> int:
        """Make the missing outputs, and set ``stop_reason`` where some stay missing.

        Returns the number of model actors.
        """
        folder, models = self.folder, 0
        try:
            models = self._run_pipeline(progress, plan, max_errors)
            if self.spec.options.format == "parquet" and not self.stop_reason and folder.parts:
                connect()
                write_tables(folder, self.spec, self.source.tables)
        except JobLostError:
            self.lost = True
            self.stop_reason = (
                f"{folder.folder.location} is gone (or another job has taken it over)"
            )
        except Exception as e:
            cause = find_refusal(e, local_folder(folder.output)) or find_user_error(e)
            if cause is None:
                raise
            folder.stop()
            self.stop_reason = str(cause)
        missing, total = folder.count(MISSING), len(folder.state)
        if missing and not self.stop_reason:
            self.stop_reason = "some outputs were not made"
        if self.stop_reason:
            self.stop_reason = (
                f"stopped: {self.stop_reason}; {self._images_there()} of {total} are there"
                + ("" if self.lost else "; run the same command again to continue")
            )
        return models

    def _images_there(self) -> int:
        """Outputs that exist. Those of a lost job have no records any more, only their files."""
        if not self.lost or self.spec.options.format == "parquet":
            return self.folder.count(DONE)
        names, targets = (self.folder.manifest[n].to_pylist() for n in ("name", "targets"))
        there = set(self.folder.output.list())
        return sum(
            self.spec.output_name(name, target) in there
            for name, of_photo in zip(names, targets, strict=True)
            for target in of_photo
        )

    def _record_row_errors(self) -> None:
        """Record an error for each row whose own columns name an invalid style or mix."""
        problems = self.folder.manifest["problem"].to_pylist()
        records = [
            OutputRecord(i, -1, "mix", problem)
            for i, problem in enumerate(problems)
            if problem is not None and self.folder.state[self.folder.first[i]] == MISSING
        ]
        if records:
            write_records(self.spec.folder, self.folder.run, records)
            self.folder.merge_records()

    def _run_pipeline(
        self, progress: Progress, plan: Callable[[int], Workers], max_errors: int | None
    ) -> int:
        """Stylize the missing outputs; returns the number of model actors."""
        folder = self.folder
        missing = folder.missing()
        if not missing:
            return 0
        connect()
        workers = plan(len(missing))
        self.spec = self.spec.replace(batch=workers.batch)
        groups = None
        if self.source.image_column is not None:
            listing = self.source.listing
            groups = list(zip(listing["path"].to_pylist(), listing["group"].to_pylist(),
                              strict=True))  # fmt: skip
        failed_before = folder.count(FAILED)

        def poll() -> bool:
            # Asked first: the records of a job that another driver has taken over are not ours.
            try:
                lost = folder.lost()
                if not lost:
                    folder.merge_records()
                    computed = folder.computed()
            except FileNotFoundError:
                if not (lost := folder.lost()):
                    raise
            if lost:
                folder.abandon()
                raise JobLostError
            failed = folder.count(FAILED)
            progress.update(folder.count(DONE) + failed, failed, *computed)
            too_many = max_errors is not None and failed - failed_before > max_errors
            if too_many and not self.stop_reason:
                self.stop_reason = f"more than {max_errors} error(s) (--max-errors)"
                folder.stop()
            return not self.stop_reason

        try:
            tasks = make_read_tasks(missing, groups, workers)
            run_pipeline(tasks, self.spec, workers, poll, folder.folder.look_seconds)
        except KeyboardInterrupt:
            folder.stop()
            progress.emit("stopping after the batches in flight", "stopping")
            raise
        return workers.models

    def _result(
        self,
        seconds: float,
        done_before: int,
        models: int,
        contact_sheet: bool,
        changes: InputChanges | None,
    ) -> StylizeResult:
        """The result; written beside the outputs, unless they are no longer this job's."""
        folder = self.folder
        errors = folder.error_rows(self.spec.targets)
        batches = [b for b in folder.stats if b.get("run") == folder.run]
        busy = sum(b["busy"] for b in batches)
        started = min((b["ended"] - b["busy"] for b in batches), default=0.0)
        span = max((b["ended"] for b in batches), default=0.0) - started
        result = StylizeResult(
            photos=folder.manifest.num_rows,
            styles=tuple(s.reference for s in self.spec.styles.values()),
            images=folder.count(DONE),
            errors=tuple(errors),
            output=local_folder(folder.output) or folder.output.location,
            seconds=seconds,
            done_before=done_before,
            stopped=self.stop_reason,
            model_seconds=busy,
            model_share=min(1.0, busy / (span * models)) if span and models else 0.0,
            passes=sum(b["passes"] for b in batches),
            left_out=sorted_counts(self.source.left_out),
            shortened_names=self.shortened_names,
            changes=changes.to_dict() if changes is not None else {},
            reasons=dict(Counter(f"{e['stage']}: {e['reason']}" for e in errors).most_common()),
        )
        if self.lost:
            return result
        try:
            folder.write_errors(errors)
            folder.output.write(SUMMARY, json_bytes(result.to_dict()))
            if contact_sheet:
                write_contact_sheet(result, self.spec, folder)
        except (DiskFullError, StoreError) as e:
            # A missing report is not an error if this run made no output.
            if result.done_now and not result.stopped:
                return replace(result, stopped=f"stopped: {e}; the report is not written")
        return result

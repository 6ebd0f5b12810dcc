"""The state of a job in OUTPUT/.job: its identity, manifest, finished outputs and errors.

    job.json           the fields that identify the job
    manifest.parquet   every photo with its targets
    progress/*.jsonl   one file per finished batch, written by a worker
    progress.jsonl     the driver's log, into which it merges these files
    computed/*.json    outputs computed by each model actor; read only for the progress line
    run                id of the newest driver; workers of an older driver stop
    stop               exists once the driver has asked its workers to stop
    driver.claim       the driver's lease of the folder, beside its heartbeat

A worker records an output after writing it. A resumed job therefore knows which outputs exist.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from factory.core.claims import LEASE_SECONDS, Claims, Holder
from factory.core.disk import disk_named
from factory.core.uris import redact
from osasis.errors import UserError
from osasis.storage import DiskFullError, write_atomic, write_json
from pipelines.job_identity import (
    FOLDER,
    JOB,
    LOG,
    MANIFEST,
    check_same_job,
    job_identity,
    read_identity,
)
from pipelines.job_spec import TargetSpec
from pipelines.manifest import (
    LISTING,
    output_id,
    printable,
    write_manifest,
    write_parquet,
)

DRIVER = "driver"
ERRORS = "errors.parquet"
ERRORS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "path", "style", "stage", "reason")]
)
MISSING, DONE, FAILED = 0, 1, 2


@dataclass(frozen=True)
class OutputRecord:
    """The result of one output: written, or failed at a stage for a reason.

    photo: row of the manifest. target: index into the job's targets; -1: none could be determined.
    stage: "mix", "read", "decode", "fit", "model" or "write"; "" for an output that was written.
    part: the file below ``parts`` that holds the output of a Parquet job. digest: of the photo's
    bytes, for an output that was written.
    """

    photo: int
    target: int
    stage: str = ""
    reason: str = ""
    part: str = ""
    digest: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The record as a line of the log."""
        line: dict[str, Any] = {"photo": self.photo, "target": self.target}
        if self.stage:
            return {**line, "status": "error", "stage": self.stage, "reason": self.reason}
        told = {name: value for name in ("part", "digest") if (value := getattr(self, name))}
        return {**line, "status": "done", **told}

    @classmethod
    def from_dict(cls, line: dict[str, Any]) -> OutputRecord:
        """Read what ``to_dict`` wrote; other keys are ignored."""
        return cls(**{f.name: line[f.name] for f in fields(cls) if f.name in line})


def write_records(
    job: str, run: str, records: Sequence[OutputRecord], stats: dict[str, Any] | None = None
) -> None:
    """Record a worker's results in one file. stats: timings of a model batch."""
    if superseded(job, run):
        return
    name = uuid.uuid4().hex
    lines = [{"batch": name, **stats}] if stats else []
    lines += [{"batch": name, **r.to_dict()} for r in records]
    path = Path(job) / "progress" / name[:2] / f"{name}.jsonl"
    write_atomic(path, ("".join(json.dumps(line) + "\n" for line in lines)).encode())


def record_computed(job: str, run: str, actor: str, outputs: int, since: float) -> None:
    """Publish how many outputs a model actor has computed in this run, for the progress line.

    since: start of the actor's first batch, in seconds since the epoch.
    """
    if superseded(job, run):  # the folder may be gone, and is not made again
        return
    with contextlib.suppress(OSError):  # progress is optional; it must not fail a batch
        write_json(
            Path(job) / "computed" / f"{actor}.json",
            {"run": run, "outputs": outputs, "since": since},
        )


def part_path(job: str | Path, name: str) -> Path:
    """The part file of this name, which holds a batch's outputs of a Parquet job."""
    return Path(job) / "parts" / name[:2] / name


def stopped(job: str, run: str) -> bool:
    """Whether workers of this run must not start another photo or batch."""
    return (Path(job) / "stop").exists() or superseded(job, run)


def superseded(job: str, run: str) -> bool:
    """Whether another driver has resumed the job; workers may briefly outlive a killed driver."""
    try:
        return (Path(job) / "run").read_text() != run
    except OSError:
        return True


class JobFolder:
    """The driver's view of a job folder.

    first: index of each photo's first output among all outputs of the job, (photos + 1,). state:
    MISSING, DONE or FAILED for each output. failures, parts: by (photo, target). stats: timings of
    the model batches of all runs. full: the error, where the disk had no room for the job's state.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.path = output / FOLDER
        self.manifest: pa.Table = pa.table({})
        self.first: np.ndarray = np.zeros(1, np.int64)
        self.state: np.ndarray = np.zeros(0, np.uint8)
        self.failures: dict[tuple[int, int], OutputRecord] = {}
        self.parts: dict[tuple[int, int], str] = {}
        self.stats: list[dict[str, Any]] = []
        self.run = uuid.uuid4().hex
        self._claims: Claims | None = None
        self.full: DiskFullError | None = None
        self._targets: list[list[int]] = []

    @contextlib.contextmanager
    def locked(self, report: Callable[[str], None] = lambda line: None) -> Iterator[None]:
        """Hold the folder for this driver; waits for the lease of a killed driver to end.

        On a full disk the folder stays free: ``open`` then refuses a job that has outputs to make.
        Raises UserError if another driver holds the folder.
        """

        def on_wait(holder: Holder) -> None:
            report(
                f"{self.output}: an earlier `stylize` has not given this job back; waiting up to "
                f"{LEASE_SECONDS:g} s, in case it still runs"
            )

        try:
            self._claims = Claims(self.path, self.run)
        except DiskFullError as e:
            self.full = e
            yield
            return
        try:
            try:
                holder = self._claims.acquire_from_dead(DRIVER, on_wait)
            except DiskFullError as e:
                self.full, holder = e, None
            if holder is not None:
                raise UserError(
                    f"{self.output}: another `stylize` is writing there; wait until it ends, or "
                    "choose another --output"
                )
            yield
        finally:
            self._claims.close()

    def lost(self) -> bool:
        """Whether the folder is gone, or another driver has taken it over."""
        held = self._claims is not None and self._claims.held(DRIVER)
        return not held or superseded(str(self.path), self.run)

    def abandon(self) -> None:
        """Stop this run's workers in a folder that may be another driver's by now."""
        if not superseded(str(self.path), self.run):
            with contextlib.suppress(OSError):
                (self.path / "run").unlink()

    def open(self, fingerprint: dict[str, Any], manifest: pa.Table) -> bool:
        """Start a job, or resume the job of this folder; returns whether it is resumed.

        Raises UserError naming every difference if the folder holds another job, and
        DiskFullError if outputs are missing and the disk is full.
        """
        identity = job_identity(fingerprint)
        path = self.path / JOB
        resumed = path.is_file()
        if resumed:
            check_same_job(self.output, read_identity(path), identity, manifest)
        else:
            write_manifest(self.path / MANIFEST, manifest)
            write_json(path, identity)
        self.manifest = manifest
        self._targets = [t or [-1] for t in manifest["targets"].to_pylist()]
        self.first = np.concatenate([[0], np.cumsum([len(t) for t in self._targets])])
        self.state = np.zeros(int(self.first[-1]), np.uint8)
        for stale in (self.path / "computed").glob("*.json"):
            stale.unlink(missing_ok=True)
        (self.path / "stop").unlink(missing_ok=True)
        try:
            write_atomic(self.path / "run", self.run.encode())
        except DiskFullError as e:
            self.full = e
        self._read_log()
        try:
            self.merge_records()
        except DiskFullError as e:
            self.full = e
        if self.full is not None and self.count(MISSING):
            raise self.full
        if resumed and self.count(MISSING):
            for stale in self.output.rglob(".*.part"):  # temporary files of a killed writer
                stale.unlink(missing_ok=True)
        return resumed

    # --- progress ---------------------------------------------------------------------------

    def _read_log(self) -> None:
        path = self.path / LOG
        if not path.is_file():
            return
        with path.open("rb") as log:
            for line in log:
                with contextlib.suppress(ValueError):  # a line cut off when a driver was killed
                    self._apply(json.loads(line))

    def merge_records(self) -> None:
        """Append the workers' new record files to the log, apply them, and delete the files.

        Raises DiskFullError after the records are applied; the files are then kept.
        """
        paths = sorted((self.path / "progress").glob("*/*.jsonl"))
        if not paths:
            return
        records = [path.read_bytes() for path in paths]
        for data in records:
            for line in data.splitlines():
                self._apply(json.loads(line))
        with disk_named(self.output), (self.path / LOG).open("ab") as log:
            if log.tell():
                log.write(b"\n")  # ends a line that a killed driver or a full disk cut off
            log.write(b"".join(records))
            log.flush()
            os.fsync(log.fileno())
        for path in paths:
            path.unlink(missing_ok=True)

    def _apply(self, line: dict[str, Any]) -> None:
        if "photo" not in line:
            self.stats.append(line)
            return
        record = OutputRecord.from_dict(line)
        key = (record.photo, record.target)
        index = self._output_index(*key)
        if self.state[index] == DONE:
            return
        if record.stage:
            self.state[index] = FAILED
            self.failures[key] = record
        else:
            self.state[index] = DONE
            self.failures.pop(key, None)
            if record.part:
                self.parts[key] = record.part

    def _output_index(self, photo: int, target: int) -> int:
        """The index of an output in ``state``."""
        return int(self.first[photo]) + self._targets[photo].index(target)

    def reset_failed(self) -> None:
        """Mark failed outputs as missing, so that this run retries them."""
        self.state[self.state == FAILED] = MISSING
        self.failures.clear()

    def missing(self) -> list[tuple[int, list[int]]]:
        """(photo, missing targets) for each photo with a missing output."""
        out = []
        for photo in np.unique(np.searchsorted(self.first, np.flatnonzero(self.state == MISSING),
                                               side="right") - 1):  # fmt: skip
            start = int(self.first[photo])
            targets = [
                t for k, t in enumerate(self._targets[photo]) if self.state[start + k] == MISSING
            ]
            out.append((int(photo), targets))
        return out

    def done(self, photo: int, target: int) -> bool:
        return bool(self.state[self._output_index(photo, target)] == DONE)

    def count(self, state: int) -> int:
        return int((self.state == state).sum())

    def computed(self) -> tuple[int, float | None]:
        """Outputs computed in this run, written or not, and the start in seconds since the epoch.

        The start is None before the first batch.
        """
        actors = [json.loads(path.read_text()) for path in (self.path / "computed").glob("*.json")]
        current = [a for a in actors if a["run"] == self.run]
        return sum(a["outputs"] for a in current), min((a["since"] for a in current), default=None)

    # --- errors -----------------------------------------------------------------------------

    def error_rows(self, targets: Sequence[TargetSpec]) -> list[dict[str, str]]:
        """The rows of ``errors.parquet``, in the manifest's order."""
        out = []
        for key in sorted(self.failures):
            failure = self.failures[key]
            row = {n: self.manifest[n][failure.photo].as_py() for n in LISTING.names}
            target = targets[failure.target] if failure.target >= 0 else None
            path = redact(printable(row["path"]))
            if row["row"] >= 0:
                path += f"#{printable(row['key'])}"
            out.append(
                {
                    "id": output_id(row, json.dumps(target.mix.to_dict()) if target else ""),
                    "path": path,
                    "style": target.label if target else "",
                    "stage": failure.stage,
                    "reason": failure.reason,
                }
            )
        return out

    def write_errors(self, rows: list[dict[str, str]]) -> None:
        """Write ``errors.parquet``; delete the file if there are no errors."""
        path = self.output / ERRORS
        if not rows:
            path.unlink(missing_ok=True)
            return
        write_parquet(path, pa.Table.from_pylist(rows, schema=ERRORS_SCHEMA))

    def stop(self) -> None:
        """Ask workers to start no further photo or batch."""
        try:
            (self.path / "stop").touch()
        except OSError:  # the disk is full, or the folder is gone
            with contextlib.suppress(OSError):
                (self.path / "run").unlink(missing_ok=True)

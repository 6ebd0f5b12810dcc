"""The state of a job in OUTPUT/.job: its identity, manifest, finished outputs and errors.

    job.json                 the fields that identify the job, and the name of its STATE
    driver.claim             the driver's lease of the folder, beside its heartbeat
    STATE/manifest.parquet   every photo with its targets; never changes
    STATE/records/*.jsonl    one file per finished batch, written by a worker
    STATE/log/*.jsonl        the driver's log, into which it gathers these files
    STATE/parts/*.parquet    outputs of a Parquet job, one file per batch
    STATE/computed/*.json    outputs computed by each model actor; read only for the progress line
    STATE/run                id of the newest driver, and whether it stops; workers of an older
                             driver stop

A worker records an output after writing it. A resumed job therefore knows which outputs exist.
A job that changes gets a new state, to which job.json then points.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa

from factory.core.claims import LEASE_SECONDS, Claims, Holder
from factory.core.object_store import StoreError
from factory.core.stores import Store, open_store
from factory.core.uris import redact
from osasis.errors import UserError
from osasis.storage import DiskFullError
from pipelines.job_identity import (
    FOLDER,
    SavedJob,
    check_same_job,
    job_identity,
    read_job,
    write_job,
)
from pipelines.job_log import LOG, RECORDS, JobLog, parse
from pipelines.job_spec import TargetSpec
from pipelines.manifest import (
    LISTING,
    output_id,
    parquet_bytes,
    printable,
    write_manifest,
)

DRIVER, RUN, COMPUTED, PARTS = "driver", "run", "computed", "parts"
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
    """Record a worker's results in one file. job: the job's state. stats: of a model batch."""
    if superseded(job, run):
        return
    name = uuid.uuid4().hex
    lines = [{"batch": name, **stats}] if stats else []
    lines += [{"batch": name, **r.to_dict()} for r in records]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    open_store(job).write(f"{RECORDS}/{name}.jsonl", text.encode())


def record_computed(job: str, run: str, actor: str, outputs: int, since: float) -> None:
    """Publish how many outputs a model actor has computed in this run, for the progress line.

    since: start of the actor's first batch, in seconds since the epoch.
    """
    with contextlib.suppress(OSError):  # progress is optional; it must not fail a batch
        if superseded(job, run):  # the folder may be gone, and is not made again
            return
        told = {"run": run, "outputs": outputs, "since": since}
        open_store(job).write(f"{COMPUTED}/{actor}.json", json.dumps(told).encode())


def part_name(name: str) -> str:
    """The part file of this name, which holds a batch's outputs of a Parquet job."""
    return f"{PARTS}/{name}"


# When each run was looked at last, and what was found.
_looks: dict[tuple[str, str], tuple[float, str]] = {}


def stopped(job: str, run: str) -> bool:
    """Whether workers of this run must not start another photo or batch.

    A store is asked at most every ``look_seconds``.
    """
    store, now = open_store(job), time.monotonic()
    when, found = _looks.get((job, run), (-np.inf, ""))
    if now - when >= store.look_seconds:
        found = _read_run(store)
        _looks[job, run] = now, found
    return found != run


def superseded(job: str, run: str) -> bool:
    """Whether another driver has resumed the job; workers may briefly outlive a killed driver."""
    return _read_run(open_store(job)).partition(" ")[0] != run


def _read_run(store: Store) -> str:
    """The content of ``run``; "" where it is gone. Raises StoreError."""
    try:
        return store.read(RUN).decode()
    except StoreError:
        raise
    except OSError:
        return ""


class JobFolder:
    """The driver's view of a job folder.

    output, folder: the output, and OUTPUT/.job. place: the job's state below it. first: index of
    each photo's first output among all outputs of the job, (photos + 1,). state: MISSING, DONE or
    FAILED for each output. failures, parts: by (photo, target). stats: timings of the model batches
    of all runs. full: the error, where the disk had no room for the job's state.
    """

    def __init__(self, output: str | os.PathLike[str]) -> None:
        """output: path or URI, see ``open_store``."""
        self.output = open_store(output)
        self.folder = self.output.within(FOLDER)
        self.place = self.folder
        self.manifest: pa.Table = pa.table({})
        self.first: np.ndarray = np.zeros(1, np.int64)
        self.state: np.ndarray = np.zeros(0, np.uint8)
        self.failures: dict[tuple[int, int], OutputRecord] = {}
        self.parts: dict[tuple[int, int], str] = {}
        self.stats: list[dict[str, Any]] = []
        self.run = uuid.uuid4().hex
        self.full: DiskFullError | None = None
        self._log = JobLog(self.place)
        self._claims: Claims | None = None
        self._targets: list[list[int]] = []

    @contextlib.contextmanager
    def locked(self, report: Callable[[str], None] = lambda line: None) -> Iterator[None]:
        """Hold the folder for this driver; waits for the lease of a killed driver to end.

        On a full disk the folder stays free: ``open`` then refuses a job that has outputs to make.
        Raises UserError if another driver holds the folder.
        """
        output = self.output.location

        def on_wait(holder: Holder) -> None:
            report(
                f"{output}: an earlier `stylize` has not given this job back; waiting up to "
                f"{LEASE_SECONDS:g} s, in case it still runs"
            )

        try:
            self._claims = Claims(self.folder.location, self.run)
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
                    f"{output}: another `stylize` is writing there; wait until it ends, or "
                    "choose another --output"
                )
            yield
        finally:
            self._claims.close()

    def lost(self) -> bool:
        """Whether the folder is gone, or another driver has taken it over."""
        held = self._claims is not None and self._claims.held(DRIVER)
        return not held or superseded(self.place.location, self.run)

    def abandon(self) -> None:
        """Stop this run's workers in a folder that may be another driver's by now."""
        with contextlib.suppress(OSError):
            if not superseded(self.place.location, self.run):
                self.place.delete([RUN])

    def open(self, fingerprint: dict[str, Any], manifest: pa.Table) -> bool:
        """Start a job, or resume the job of this folder; returns whether it is resumed.

        Raises UserError naming every difference if the folder holds another job, and
        DiskFullError if outputs are missing and the disk is full.
        """
        identity = job_identity(fingerprint)
        job = read_job(self.folder)
        resumed = job is not None
        if job is not None:
            check_same_job(self.folder, job, identity, manifest)
        else:
            job = SavedJob(identity, new_state())
            write_manifest(self.folder.within(job.state), manifest)
            write_job(self.folder, job)
        self.place = self.folder.within(job.state)
        self._log = JobLog(self.place)
        self.manifest = manifest
        self._targets = [t or [-1] for t in manifest["targets"].to_pylist()]
        self.first = np.concatenate([[0], np.cumsum([len(t) for t in self._targets])])
        self.state = np.zeros(int(self.first[-1]), np.uint8)
        if self.full is None:  # else the folder is not held
            self._delete_stale(job.state)
        try:
            self.place.write(RUN, self.run.encode())
        except DiskFullError as e:
            self.full = e
        for line in self._log.lines(LOG):
            self._apply(line)
        try:
            self.merge_records()
        except DiskFullError as e:
            self.full = e
        if self.full is not None and self.count(MISSING):
            raise self.full
        if resumed and self.count(MISSING):
            self.output.sweep()
        return resumed

    def _delete_stale(self, state: str) -> None:
        """Delete earlier states, and what model actors of earlier runs have published."""
        states = {name.partition("/")[0] for name in self.folder.list() if "/" in name}
        for earlier in states - {state}:
            self.folder.delete_folder(earlier)
        self.place.delete(self.place.list(COMPUTED))

    # --- progress ---------------------------------------------------------------------------

    def merge_records(self) -> None:
        """Apply the workers' new records, and gather them in the log.

        Raises DiskFullError or StoreError after the records are applied; they are then kept.
        """
        records = self._log.new_records()
        for _, data in records:
            for line in parse(data):
                self._apply(line)
        self._log.gather(records)

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
        actors = [json.loads(self.place.read(name)) for name in self.place.list(COMPUTED)]
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
        if rows:
            self.output.write(ERRORS, parquet_bytes(pa.Table.from_pylist(rows, ERRORS_SCHEMA)))
        else:
            self.output.delete([ERRORS])

    def stop(self) -> None:
        """Ask workers to start no further photo or batch."""
        try:
            if not superseded(self.place.location, self.run):
                self.place.write(RUN, f"{self.run} stop".encode())
        except OSError:  # the disk is full, or the store does not answer
            self.abandon()


def new_state() -> str:
    """The name of a new state of a job."""
    return f"state-{uuid.uuid4().hex[:12]}"

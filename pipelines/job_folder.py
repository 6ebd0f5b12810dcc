"""A job's directory: what is to be done, what is done, and what went wrong.

    OUTPUT/.job/job.json           the job's fingerprint, field by field
    OUTPUT/.job/manifest.parquet   every photo with its targets
    OUTPUT/.job/progress/*.jsonl   one file a finished batch, written after its outputs
    OUTPUT/.job/progress.jsonl     the same, gathered by the driver
    OUTPUT/.job/computed/*.json    how far each model actor is, for progress alone

A record is written only after the output it speaks of; so a job that was killed anywhere knows
exactly what is missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from factory.core.uris import redact
from osasis.errors import UserError
from osasis.storage import write_atomic, write_json
from pipelines.job_spec import TargetSpec
from pipelines.manifest import LISTING, first_difference, row_id, shown, write_manifest

FOLDER = ".job"
ERRORS = "errors.parquet"
ERRORS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "path", "style", "stage", "reason")]
)
MISSING, DONE, FAILED = 0, 1, 2
FORMAT = 1


def write_records(
    job: str, run: str, records: list[dict[str, Any]], facts: dict[str, Any] | None = None
) -> None:
    """What a worker has finished, as one small file.

    records: photo (index), target, status "done" or "error"; with stage and reason.
    """
    if superseded(job, run):
        return
    name = uuid.uuid4().hex
    lines = [{"batch": name, **facts}] if facts else []
    lines += [{"batch": name, **r} for r in records]
    path = Path(job) / "progress" / name[:2] / f"{name}.jsonl"
    write_atomic(path, ("".join(json.dumps(line) + "\n" for line in lines)).encode())


def record_computed(job: str, run: str, actor: str, outputs: int, since: float) -> None:
    """How many outputs an actor has computed in this run, written or not yet.

    since: when it began with the first one, in seconds of the epoch.
    """
    told = {"run": run, "outputs": outputs, "since": since}
    with contextlib.suppress(OSError):  # what cannot be written fails where it matters
        write_json(Path(job) / "computed" / f"{actor}.json", told)


def stopped(job: str, run: str) -> bool:
    """Whether workers of this run should take up nothing more."""
    return (Path(job) / "stop").exists() or superseded(job, run)


def superseded(job: str, run: str) -> bool:
    """Whether another driver has taken over; workers may outlive a killed one by a moment."""
    try:
        return (Path(job) / "run").read_text() != run
    except OSError:
        return True


@dataclass
class Failure:
    """One output that is not there, and why."""

    index: int
    target: int
    stage: str
    reason: str


class JobFolder:
    """The job directory of an output folder, as the driver sees it."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.path = output / FOLDER
        self.manifest: pa.Table = pa.table({})
        self.first: np.ndarray = np.zeros(1, np.int64)
        self.state: np.ndarray = np.zeros(0, np.uint8)
        self.failures: dict[tuple[int, int], Failure] = {}
        self.parts: dict[tuple[int, int], str] = {}
        self.facts: list[dict[str, Any]] = []
        self.run = uuid.uuid4().hex
        self._targets: list[list[int]] = []

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for one driver; the lock ends with its process, however it ends.

        Raises UserError where another driver holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / "lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise UserError(
                f"{self.output}: another `stylize` is writing there; wait for it, or choose "
                "another --output"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def open(self, fingerprint: dict[str, Any], manifest: pa.Table) -> bool:
        """Begin a job, or take up the one that is there; True where it is taken up.

        Raises UserError naming every difference where another job is there.
        """
        fingerprint = json.loads(json.dumps(fingerprint))  # as it will be read: lists, no tuples
        known = self.path / "job.json"
        resumed = known.is_file()
        if resumed:
            self._refuse_another(json.loads(known.read_text()), fingerprint, manifest)
        else:
            write_manifest(self.path / "manifest.parquet", manifest)
            write_json(known, {"format": FORMAT, **fingerprint})
        self.manifest = manifest
        self._targets = [t or [-1] for t in manifest["targets"].to_pylist()]
        self.first = np.concatenate([[0], np.cumsum([len(t) for t in self._targets])])
        self.state = np.zeros(int(self.first[-1]), np.uint8)
        for left in (self.path / "computed").glob("*.json"):
            left.unlink(missing_ok=True)
        write_atomic(self.path / "run", self.run.encode())
        (self.path / "stop").unlink(missing_ok=True)
        self._read_log()
        self.gather()
        if resumed and self.count(MISSING):
            for left in self.output.rglob(".*.part"):  # of a killed writer
                left.unlink(missing_ok=True)
        return resumed

    def _refuse_another(self, old: dict[str, Any], new: dict[str, Any], manifest: pa.Table) -> None:
        names = [n for n in new if old.get(n) != new[n]]
        if old.get("format") != FORMAT:
            names = ["format", *names]
        if not names:
            return
        told = []
        for name in names:
            if name == "input":
                before = pq.read_table(self.path / "manifest.parquet")
                told.append(f"input: {first_difference(before, manifest)}")
            else:
                told += _differences(name, old.get(name), {**new, "format": FORMAT}[name])
        raise UserError(
            f"{self.output} holds another job ({'; '.join(told)}); go on with the same command, "
            f"choose another --output, or delete {self.path}"
        )

    # --- progress ---------------------------------------------------------------------------

    def _read_log(self) -> None:
        path = self.path / "progress.jsonl"
        if not path.is_file():
            return
        with path.open("rb") as log:
            for line in log:
                with contextlib.suppress(ValueError):  # the last line of a killed driver
                    self._take(json.loads(line))

    def gather(self) -> list[dict[str, Any]]:
        """Take in what workers have finished since the last look; returns its records.

        Small files become lines of one log: appended, then deleted.
        """
        new: list[dict[str, Any]] = []
        paths = sorted((self.path / "progress").glob("*/*.jsonl"))
        if not paths:
            return new
        with (self.path / "progress.jsonl").open("ab") as log:
            if log.tell():
                log.write(b"\n")  # ends a line that a killed driver left open
            for path in paths:
                data = path.read_bytes()
                log.write(data)
                for line in data.splitlines():
                    record = json.loads(line)
                    if self._take(record):
                        new.append(record)
            log.flush()
            os.fsync(log.fileno())
        for path in paths:
            path.unlink(missing_ok=True)
        return new

    def _take(self, record: dict[str, Any]) -> bool:
        if "photo" not in record:
            self.facts.append(record)
            return False
        key = (record["photo"], record["target"])
        slot = self.slot(*key)
        if record["status"] == "done":
            if self.state[slot] == DONE:
                return False
            self.state[slot] = DONE
            self.failures.pop(key, None)
            if "part" in record:
                self.parts[key] = record["part"]
        elif self.state[slot] != DONE:
            self.state[slot] = FAILED
            self.failures[key] = Failure(*key, record["stage"], record["reason"])
        return True

    def slot(self, photo: int, target: int) -> int:
        """The place of an output among all."""
        return int(self.first[photo]) + self._targets[photo].index(target)

    def forget_errors(self) -> None:
        """Make rows that failed missing again."""
        self.state[self.state == FAILED] = MISSING
        self.failures.clear()

    def missing(self) -> list[tuple[int, list[int]]]:
        """Photos with the targets that they still lack."""
        out = []
        for photo in np.unique(np.searchsorted(self.first, np.flatnonzero(self.state == MISSING),
                                               side="right") - 1):  # fmt: skip
            start = int(self.first[photo])
            lack = [
                t for k, t in enumerate(self._targets[photo]) if self.state[start + k] == MISSING
            ]
            out.append((int(photo), lack))
        return out

    def done(self, photo: int, target: int) -> bool:
        return bool(self.state[self.slot(photo, target)] == DONE)

    def count(self, state: int) -> int:
        return int((self.state == state).sum())

    # --- errors -----------------------------------------------------------------------------

    def computed(self) -> tuple[int, float | None]:
        """Outputs that this run's actors have computed, also those not yet written; since when."""
        told = [json.loads(path.read_text()) for path in (self.path / "computed").glob("*.json")]
        mine = [t for t in told if t["run"] == self.run]
        return sum(t["outputs"] for t in mine), min((t["since"] for t in mine), default=None)

    def error_rows(self, targets: Sequence[TargetSpec]) -> list[dict[str, str]]:
        """All failures, in the manifest's order."""
        out = []
        for key in sorted(self.failures):
            failure = self.failures[key]
            row = {n: self.manifest[n][failure.index].as_py() for n in LISTING.names}
            target = targets[failure.target] if failure.target >= 0 else None
            path = redact(shown(row["path"])) + (f"#{shown(row['key'])}" if row["row"] >= 0 else "")
            out.append(
                {
                    "id": row_id(row, json.dumps(target.mix.to_dict()) if target else ""),
                    "path": path,
                    "style": target.label if target else "",
                    "stage": failure.stage,
                    "reason": failure.reason,
                }
            )
        return out

    def write_errors(self, rows: list[dict[str, str]]) -> None:
        """``errors.parquet``, or none where there is no error."""
        path = self.output / ERRORS
        if not rows:
            path.unlink(missing_ok=True)
            return
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=ERRORS_SCHEMA), sink)
        write_atomic(path, sink.getvalue().to_pybytes())

    def stop(self) -> None:
        """Ask workers to take up nothing more."""
        (self.path / "stop").touch()


def _differences(name: str, old: Any, new: Any) -> list[str]:
    """``name: old then, new now`` for each leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        out = []
        for key in [*old, *(k for k in new if k not in old)]:
            if old.get(key) != new.get(key):
                out += _differences(f"{name}.{key}", old.get(key), new.get(key))
        return out
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [d for i, (a, b) in pairs if a != b for d in _differences(f"{name}[{i}]", a, b)]
    return [f"{name}: {_brief(old)} then, {_brief(new)} now"]


def _brief(value: Any) -> str:
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."

"""Claims: jobs that share a folder agree on which job trains a style, builds a bank or owns a job.

A claim is a lease: a JSON file that is created only where it does not exist, and that names its
holder. While a job lives, it touches its heartbeat file. A claim whose holder has given no sign of
life for ``LEASE_SECONDS`` may be taken over. The storage's own clock measures this time. Process
ids, host names and file locks cannot prove that a holder is dead: the holder may run in another
container, or on another machine that shares the storage. A file lock that is held proves that the
holder lives, even if its heartbeat is late.

Another job may have taken over the claim of a silent holder. Therefore a job calls ``held`` or
``check_claim`` before it writes what the claim protects.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from osasis.storage import create_file, sha256_text, write_json

HEARTBEAT_SECONDS = 2.0
LEASE_SECONDS = 15.0
# How often ``acquire_from_dead`` looks, and how long a claim may lack its content.
POLL_SECONDS, CONTENT_SECONDS = 0.5, 1.0


class SupersededError(Exception):
    """Another job has taken over what this job held."""


@dataclass(frozen=True)
class Holder:
    """The job that holds a claim. token: unique to one run of the job."""

    job: str
    token: str


class Claims:
    """The claims of one job. A daemon thread touches the job's heartbeat file until ``close``."""

    def __init__(self, folder: Path, job: str) -> None:
        """Raises DiskFullError."""
        self.folder = folder
        self.holder = Holder(job, uuid.uuid4().hex)
        self._closed = threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        self._heartbeat = self._heartbeat_of(self.holder)
        create_file(self._heartbeat, b"")
        self._locked = self._heartbeat.open("rb")
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        threading.Thread(target=self._touch_heartbeat, daemon=True).start()

    def _touch_heartbeat(self) -> None:
        while not self._closed.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                self._heartbeat.touch()

    def acquire(self, name: str) -> Holder | None:
        """Claim a name. Returns None on success, else the job that holds the claim."""
        return self._take(self.path(name))

    def acquire_from_dead(self, name: str, on_wait: Callable[[Holder], None]) -> Holder | None:
        """Claim a name, or wait until its silent holder counts as dead.

        Returns None on success, else the holder as soon as it shows that it lives. on_wait: called
        once where there is something to wait for.
        """
        first: tuple[Holder, float] | None = None
        while (holder := self.acquire(name)) is not None:
            if self._lock_is_held(holder):
                return holder
            beat = self._last_beat(holder, self.path(name))
            if first is None:
                first = holder, beat
                on_wait(holder)
            if first != (holder, beat):
                return holder
            time.sleep(POLL_SECONDS)
        return None

    def held(self, name: str) -> bool:
        """Whether this job still holds the claim."""
        return read_claim(self.path(name)) == self.holder

    def release(self, name: str) -> None:
        """Give a claim back; a claim that another job has taken over stays as it is."""
        if self.held(name):
            self.path(name).unlink(missing_ok=True)

    def path(self, name: str) -> Path:
        """The claim's file, for ``read_claim``."""
        return self.folder / f"{name}.claim"

    def close(self) -> None:
        """End the heartbeat and give back every claim of this job."""
        self._closed.set()
        for path in self.folder.glob("*.claim"):
            if read_claim(path) == self.holder:
                path.unlink(missing_ok=True)
        self._heartbeat.unlink(missing_ok=True)
        self._locked.close()

    def _take(self, path: Path) -> Holder | None:
        """Make a claim's file this job's. Returns None on success, else the holder."""
        while not create_file(path, json.dumps(asdict(self.holder)).encode()):
            holder = _read_complete(path)
            if holder == self.holder:
                return None
            if holder is None and not path.exists():  # given back meanwhile
                continue
            holder = holder or Holder("unknown", "")
            if self._is_alive(holder, path):
                return holder
            if self._take_over(path, holder):
                return None
        return None

    def _take_over(self, path: Path, dead: Holder) -> bool:
        """Replace a dead holder's claim. Of several jobs one succeeds: it creates the marker.

        The marker belongs to the token of the dead holder, and is a claim like any other, so that
        a job that dies here blocks nobody for long.
        """
        marker = self.folder / f"{sha256_text(path.name + dead.token)[:32]}.takeover"
        if self._take(marker) is not None:
            time.sleep(POLL_SECONDS)
            return False
        try:
            # Another job may have replaced the claim before this one created the marker.
            if (read_claim(path) or Holder("unknown", "")) != dead or not path.exists():
                return False
            write_json(path, asdict(self.holder))
            return True
        finally:
            marker.unlink(missing_ok=True)

    def _is_alive(self, holder: Holder, claim: Path) -> bool:
        if self._lock_is_held(holder):
            return True
        try:
            # By the storage's clock: this machine's may be another.
            self._heartbeat.touch()
            now = self._heartbeat.stat().st_mtime
        except OSError:
            return True  # unknown
        return now - self._last_beat(holder, claim) < LEASE_SECONDS

    def _last_beat(self, holder: Holder, claim: Path) -> float:
        """When a holder last gave a sign of life, by the storage's clock."""
        times = []
        for path in (claim, self._heartbeat_of(holder)):
            # Opening a file makes a network file system read its attributes anew.
            with contextlib.suppress(FileNotFoundError), path.open("rb") as f:
                times.append(os.fstat(f.fileno()).st_mtime)
        return max(times, default=0.0)

    def _lock_is_held(self, holder: Holder) -> bool:
        try:
            with self._heartbeat_of(holder).open("rb") as f:
                return _is_locked(f)
        except OSError:
            return False

    def _heartbeat_of(self, holder: Holder) -> Path:
        return self.folder / f"{holder.job}.alive"


def read_claim(path: Path) -> Holder | None:
    """The holder that a claim's file names; None where the file is missing or broken."""
    try:
        return Holder(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def check_claim(path: Path, job: str) -> None:
    """Raises SupersededError where a claim is no longer this job's."""
    holder = read_claim(path)
    if holder is not None and holder.job == job:
        return
    if holder is not None:
        raise SupersededError(f"job {holder.job} has taken {path.stem} over")
    if not path.exists():
        raise SupersededError(f"the claim {path} is gone")


def _read_complete(path: Path) -> Holder | None:
    """The holder of a claim; waits for the content of a claim that is just being created."""
    deadline = time.monotonic() + CONTENT_SECONDS
    while (holder := read_claim(path)) is None and path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holder


def _is_locked(file: IO[bytes]) -> bool:
    """Whether another process holds the lock; False also where the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False

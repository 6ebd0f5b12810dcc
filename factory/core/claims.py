"""Claims: locks by which jobs that share a home agree on who trains a style or builds a bank.

A claim is a JSON file that names its holder. A file lock serialises writes of claims, so only one
job acquires a claim. A job touches its heartbeat file while it runs; the claim of a dead holder
can be taken over. A worker calls ``read_claim`` before it writes a checkpoint, so that workers of
a dead driver do not overwrite the files of the job that has taken over.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from osasis.storage import write_json

HEARTBEAT_SECONDS = 5.0
# A job on another machine counts as dead after this long without a heartbeat.
HEARTBEAT_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Holder:
    """The job that holds a claim, with its machine and process.

    started: start time of the process; tells a reused process id from the holder's process.
    """

    job: str
    host: str
    pid: int
    started: str


class Claims:
    """The claims of one job. A daemon thread touches the job's heartbeat file until ``close``."""

    def __init__(self, folder: Path, job: str) -> None:
        self.folder = folder
        self.holder = Holder(
            job, socket.gethostname(), os.getpid(), _process_start(os.getpid()) or ""
        )
        self._closed = threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        self._heartbeat = folder / f"{job}.alive"
        self._heartbeat.touch()
        threading.Thread(target=self._touch_heartbeat, daemon=True).start()

    def _touch_heartbeat(self) -> None:
        while not self._closed.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                self._heartbeat.touch()

    def acquire(self, name: str) -> Holder | None:
        """Acquire a claim. Returns None on success, else the running job that holds the claim."""
        path = self.path(name)
        with self._lock():
            holder = read_claim(path)
            if holder is not None and holder != self.holder and self._is_alive(holder):
                return holder
            write_json(path, asdict(self.holder))
        return None

    def held(self, name: str) -> bool:
        """Whether this job still holds the claim."""
        return read_claim(self.path(name)) == self.holder

    def release(self, name: str) -> None:
        """Release a claim; does nothing where another job has taken the claim over."""
        with self._lock():
            if self.held(name):
                self.path(name).unlink(missing_ok=True)

    def path(self, name: str) -> Path:
        """The claim's file, for ``read_claim``."""
        return self.folder / f"{name}.claim"

    def close(self) -> None:
        """Stop the heartbeat and release every claim of this job."""
        self._closed.set()
        with self._lock():
            for path in self.folder.glob("*.claim"):
                if read_claim(path) == self.holder:
                    path.unlink(missing_ok=True)
        self._heartbeat.unlink(missing_ok=True)

    def _is_alive(self, holder: Holder) -> bool:
        if holder.host == self.holder.host:
            return _process_start(holder.pid) == holder.started
        try:
            age = time.time() - (self.folder / f"{holder.job}.alive").stat().st_mtime
        except OSError:
            return False
        return age < HEARTBEAT_TIMEOUT_SECONDS

    def _lock(self) -> contextlib.AbstractContextManager[object]:
        return FileLock(self.folder / ".lock")


def read_claim(path: Path) -> Holder | None:
    """The holder that a claim's file names; None where the file is missing or invalid."""
    try:
        return Holder(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _process_start(pid: int) -> str | None:
    """Start time of a local process in kernel ticks; None where the process has ended.

    Returns "" for a running process on a system without /proc.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            return ""
        return ""
    return None if fields[0] in "ZX" else fields[19]

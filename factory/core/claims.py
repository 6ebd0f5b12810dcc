"""Claims: who trains what, where several jobs share one home.

A job claims a style, or a content bank that it builds, by a file on the home's storage. Claims
are made under one lock, so that of two jobs one gets it; a claim whose job is gone may be taken
over. A worker asks before it writes whether its job still holds the claim: what a dead driver
left running cannot overwrite what its successor does.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from osasis.storage import write_json

BEAT_SECONDS = 5.0
# A job on another machine that was silent this long is gone.
SILENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Holder:
    """Who holds a claim: the job, its machine and process (with its start, ids come again)."""

    job: str
    host: str
    pid: int
    started: str


class Claims:
    """The claims of one job, and a heartbeat while it lives."""

    def __init__(self, folder: Path, job: str) -> None:
        self.folder = folder
        self.me = Holder(job, socket.gethostname(), os.getpid(), _process_start(os.getpid()) or "")
        self._over = threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        self._beat = folder / f"{job}.alive"
        self._beat.touch()
        threading.Thread(target=self._keep_beating, daemon=True).start()

    def _keep_beating(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                self._beat.touch()

    def acquire(self, name: str) -> Holder | None:
        """Claim a name; returns None where it is ours now, else who holds it."""
        path = self.path(name)
        with self._locked():
            holder = read_claim(path)
            if holder is not None and holder != self.me and self._lives(holder):
                return holder
            write_json(path, asdict(self.me))
        return None

    def held(self, name: str) -> bool:
        """Whether the claim is still ours."""
        return read_claim(self.path(name)) == self.me

    def release(self, name: str) -> None:
        """Give a claim back; nothing happens where another job has taken it over."""
        with self._locked():
            if self.held(name):
                self.path(name).unlink(missing_ok=True)

    def path(self, name: str) -> Path:
        """The claim's file: it names the holder."""
        return self.folder / f"{name}.claim"

    def close(self) -> None:
        """End the heartbeat and give back every claim."""
        self._over.set()
        with self._locked():
            for path in self.folder.glob("*.claim"):
                if read_claim(path) == self.me:
                    path.unlink(missing_ok=True)
        self._beat.unlink(missing_ok=True)

    def _lives(self, holder: Holder) -> bool:
        if holder.host == self.me.host:
            return _process_start(holder.pid) == holder.started
        try:
            silent = time.time() - (self.folder / f"{holder.job}.alive").stat().st_mtime
        except OSError:
            return False
        return silent < SILENCE_SECONDS

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / ".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def read_claim(path: Path) -> Holder | None:
    """Who holds the claim of this file; None where nobody does."""
    try:
        return Holder(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _process_start(pid: int) -> str | None:
    """When a process of this machine started, in the kernel's ticks; None where it is gone.

    Where the kernel does not tell, "" for every process that is there.
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

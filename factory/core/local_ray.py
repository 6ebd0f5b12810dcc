"""What a local Ray takes of this machine: a folder for its files, a token, its processes."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from osasis.errors import UserError

PREFIX = "sf-ray-"
LOCK = "owner.lock"
# Linux limits the path of a socket to 107 bytes. Ray's longest one below a folder is
# ray/session_YYYY-MM-DD_HH-MM-SS_MICROS_PID/sockets/plasma_store.
SOCKET_BYTES, SESSION_BYTES = 107, 70
# Seconds that Ray's processes get to end by themselves after ``ray.shutdown``.
END_SECONDS = 5.0
DELETE_ATTEMPTS = 5
# A folder younger than this may be one whose Ray is about to start.
START_SECONDS = 120.0

# Ray reads a token once per process, so all local Rays of a process share one.
_token = ""


@dataclass(frozen=True)
class LocalRay:
    """A local Ray's own folder: short enough for sockets, this user's, and deleted at the end.

    lock: held while this process lives, so that others do not delete the folder.
    """

    folder: Path
    lock: FileLock

    @classmethod
    def prepare(cls, root: Path) -> LocalRay:
        """Make the folder below ``root``, after deleting those of killed processes."""
        _delete_abandoned(root)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        lock = FileLock(folder / LOCK)
        lock.acquire()
        return cls(folder, lock)

    def environment(self) -> dict[str, str]:
        """Variables that a local Ray starts with."""
        found = {"RAY_TMPDIR": str(self.folder)}
        if not _can_keep_token():
            global _token
            _token = _token or secrets.token_hex(32)
            found["RAY_AUTH_TOKEN"] = _token
        return found

    def processes(self) -> list[psutil.Process]:
        """All processes of this Ray."""
        found = []
        for child in psutil.Process().children():
            try:
                # Ray's own programs name their session's folder; workers are their children.
                if str(self.folder) in " ".join(child.cmdline()):
                    found += [child, *child.children(recursive=True)]
            except psutil.Error:
                continue
        return found

    def clean(self, processes: list[psutil.Process]) -> None:
        """End the processes that still run, and delete the folder.

        Ray 2.60 leaves a Train controller behind where its teardown deadlocks.
        """
        _, alive = psutil.wait_procs(processes, timeout=END_SECONDS)
        for process in alive:
            try:
                process.kill()
            except psutil.Error:
                continue
        psutil.wait_procs(alive, timeout=END_SECONDS)
        self.lock.release()
        # Ray's threads in this process may still write log files.
        for _ in range(DELETE_ATTEMPTS):
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                return
            time.sleep(0.1)


def short_folder() -> Path:
    """The temporary folder, or /tmp where its path is too long for Ray's sockets.

    Raises UserError where no folder is short and writable.
    """
    chosen = os.environ.get("RAY_TMPDIR")
    name, candidates = "RAY_TMPDIR", [chosen]
    if not chosen:
        name, candidates = "TMPDIR", [os.environ.get("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm"]
    room = SOCKET_BYTES - SESSION_BYTES - len(PREFIX) - 9
    for candidate in filter(None, candidates):
        folder = Path(candidate).absolute()
        short = len(os.fsencode(folder)) <= room
        if short and folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return folder
    shown = f"{name} is {candidates[0]}" if candidates[0] else "TMPDIR is not set"
    raise UserError(
        f"{shown}: Ray needs a writable folder whose path has at most {room} bytes; "
        f"set {name} to one, such as /tmp"
    )


def _delete_abandoned(root: Path) -> None:
    """Delete folders of local Rays whose process was killed.

    Its lock is free, and no process of this machine names the folder; the second counts on file
    systems whose locks do nothing.
    """
    folders = list(root.glob(f"{PREFIX}*"))
    if not folders:
        return
    commands = "\n".join(
        " ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])
    )
    for folder in folders:
        try:
            state = folder.stat()
            young = time.time() - state.st_mtime < START_SECONDS
            if young or str(folder) in commands or state.st_uid != os.getuid():
                continue
            with FileLock(folder / LOCK, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except (OSError, Timeout):
            continue


def _can_keep_token() -> bool:
    """Whether Ray can read or write its token file, by default ``~/.ray/auth_token``."""
    if any(os.environ.get(n) for n in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return True
    try:
        folder = Path.home() / ".ray"
    except RuntimeError:
        return False
    if (folder / "auth_token").exists():
        return os.access(folder / "auth_token", os.R_OK)
    nearest = folder if folder.is_dir() else folder.parent
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)

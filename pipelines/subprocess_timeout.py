"""Runs a function in a helper process that is killed when its time limit is over.

A decoder that hangs inside C code cannot be stopped from within its process. The system's alarm
ends the helper instead, and the next call starts a new one; the calling process goes on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, TypeVar

# For a helper to start, on a busy machine; no part of a photo's own limit.
START_SECONDS = 120.0
# A helper that its alarm has not ended by then waits for a disk; it is given up as it is.
GRACE_SECONDS = 1.0
T = TypeVar("T")


class TimeLimitExceededError(Exception):
    """Work that took longer than it may."""


class HelperDiedError(Exception):
    """A helper that ended in the middle of its work, as a decoder's crash ends it."""


def run_within_limit(seconds: float | None, work: Callable[..., T], *args: Any) -> T:
    """``work(*args)``; with ``seconds`` it runs in a helper process, which ends when they are over.

    work must be importable by name, and return its failures rather than raise them. Raises
    TimeLimitExceededError, HelperDiedError.
    """
    global _helper
    if seconds is None:
        return work(*args)
    if _helper is None:
        _helper = _Helper()
    try:
        result: T = _helper.call(seconds, work, args)
        return result
    except (TimeLimitExceededError, HelperDiedError):
        _helper = None
        raise


class _Helper:
    """A process that does one thing at a time; it ends with the pipe to its owner."""

    def __init__(self) -> None:
        self.pipe, other = Pipe()
        known = os.pathsep.join(p for p in sys.path if p)
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"from pipelines.subprocess_timeout import serve; serve({other.fileno()})",
            ],
            pass_fds=[other.fileno()],
            env={**os.environ, "PYTHONPATH": known},
            stdin=subprocess.DEVNULL,
        )
        other.close()
        self._answer(START_SECONDS, "a helper process did not start in time")

    def call(self, seconds: float, work: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        try:
            self.pipe.send((seconds, work, args))
        except OSError:  # it died since
            raise self._died() from None
        return self._answer(seconds + GRACE_SECONDS, f"took longer than {seconds:g} s")

    def _answer(self, seconds: float, late: str) -> Any:
        try:
            if self.pipe.poll(seconds):
                return self.pipe.recv()
        except (EOFError, OSError):
            died = self._died()
            if self.process.returncode == -signal.SIGALRM:
                raise TimeLimitExceededError(late) from None
            raise died from None
        self.process.kill()
        self.pipe.close()
        raise TimeLimitExceededError(late)

    def _died(self) -> HelperDiedError:
        self.pipe.close()
        code = self.process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return HelperDiedError(f"the process that did it died ({how})")


_helper: _Helper | None = None


def serve(handle: int) -> None:
    """A helper's life: what comes through the pipe is done, until the pipe ends."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    pipe = Connection(handle)
    pipe.send("ready")
    while True:
        try:
            seconds, work, args = pipe.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, seconds)
        result = work(*args)
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send(result)

"""Runs a function in a worker process that is killed on timeout.

A decoder that hangs inside C code cannot be stopped from within its process. An alarm signal kills
the worker process instead, and the next call starts a new one.
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

# Limit for starting a worker process on a busy machine; not part of a call's own limit.
START_SECONDS = 120.0
# If a worker process still runs this long after its alarm, it is blocked on a disk. The caller
# abandons the process.
GRACE_SECONDS = 1.0
T = TypeVar("T")


class CallTimeoutError(Exception):
    """The function took longer than its limit."""


class WorkerCrashedError(Exception):
    """The worker process ended during a call, for example because a decoder crashed."""


def run_with_timeout(seconds: float | None, function: Callable[..., T], *args: Any) -> T:
    """``function(*args)``, in a worker process that is killed after ``seconds``.

    Without a limit, the call runs in this process. function must be importable by name and must
    return its failures instead of raising them. Raises CallTimeoutError, WorkerCrashedError.
    """
    global _worker
    if seconds is None:
        return function(*args)
    if _worker is None:
        _worker = _WorkerProcess()
    try:
        result: T = _worker.call(seconds, function, args)
        return result
    except (CallTimeoutError, WorkerCrashedError):
        _worker = None
        raise


class _WorkerProcess:
    """A process that runs one call at a time. It ends when its owner closes the pipe or dies."""

    def __init__(self) -> None:
        self.pipe, other = Pipe()
        search_path = os.pathsep.join(p for p in sys.path if p)
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"from pipelines.subprocess_timeout import serve; serve({other.fileno()})",
            ],
            pass_fds=[other.fileno()],
            env={**os.environ, "PYTHONPATH": search_path},
            stdin=subprocess.DEVNULL,
        )
        other.close()
        self._receive(START_SECONDS, f"no worker process started within {START_SECONDS:g} s")

    def call(self, seconds: float, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        try:
            self.pipe.send((seconds, function, args))
        except OSError:  # the process ended after the last call
            raise self._crashed() from None
        return self._receive(seconds + GRACE_SECONDS, f"took longer than {seconds:g} s")

    def _receive(self, seconds: float, timeout_message: str) -> Any:
        try:
            if self.pipe.poll(seconds):
                return self.pipe.recv()
        except (EOFError, OSError):
            crashed = self._crashed()
            if self.process.returncode == -signal.SIGALRM:
                raise CallTimeoutError(timeout_message) from None
            raise crashed from None
        self.process.kill()
        self.pipe.close()
        raise CallTimeoutError(timeout_message)

    def _crashed(self) -> WorkerCrashedError:
        self.pipe.close()
        code = self.process.wait()
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return WorkerCrashedError(f"the worker process crashed ({cause})")


_worker: _WorkerProcess | None = None


def serve(handle: int) -> None:
    """Main loop of the worker process: run the calls from the pipe until the pipe is closed."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    pipe = Connection(handle)
    pipe.send("ready")
    while True:
        try:
            seconds, function, args = pipe.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, seconds)
        result = function(*args)
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send(result)

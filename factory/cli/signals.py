"""Ctrl-C and SIGTERM: the first ends the command, and no later one cuts the clean-up short."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

# Signals during the clean-up are ignored for this long; ending Ray takes up to 10 s.
CLEAN_UP_SECONDS = 10.0
REPEAT_SECONDS = 0.5
IMPORT_POLL_SECONDS = 0.01
_IMPORT = "<frozen importlib._bootstrap>"


class SignalHandler:
    """Raises KeyboardInterrupt at the first signal, and protects the clean-up that follows.

    From then on, or from ``clean_up`` on, signals are ignored for ``CLEAN_UP_SECONDS``; a later one
    ends the process without further clean-up. An import is completed first: numpy and torch, half
    imported, recurse without end or abort the process.
    """

    def __init__(self) -> None:
        self.cleaning_since: float | None = None

    def install(self) -> None:
        signal.signal(signal.SIGTERM, self)
        signal.signal(signal.SIGALRM, self)
        # A shell makes the programs that it starts in the background ignore Ctrl-C.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self)

    def clean_up(self) -> None:
        """Begin the clean-up after a command that has ended; also where it had its own handlers."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.cleaning_since = self.cleaning_since or time.monotonic()
        self.install()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.cleaning_since is not None:
            self._heed_late(number, time.monotonic() - self.cleaning_since)
        elif _is_importing(frame):
            signal.setitimer(signal.ITIMER_REAL, IMPORT_POLL_SECONDS)
        else:
            self.cleaning_since = time.monotonic()
            raise KeyboardInterrupt

    @staticmethod
    def _heed_late(number: int, seconds: float) -> None:
        # `timeout` and some terminals send the same signal twice at once.
        if seconds < REPEAT_SECONDS:
            return
        if seconds >= CLEAN_UP_SECONDS:
            # The signal's own effect: the process ends, and a shell shows 130 or 143.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
            return
        left = CLEAN_UP_SECONDS - seconds
        # Not print, which a signal may have interrupted.
        os.write(2, f"cleaning up; after {left:.0f} s, Ctrl-C ends this at once\n".encode())


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT:
            return True
        frame = frame.f_back
    return False

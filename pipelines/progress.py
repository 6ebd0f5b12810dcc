"""Progress of a corpus job: one updated line in a terminal, JSON lines elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

# Least time between two updates.
TERMINAL_SECONDS, JSON_SECONDS = 1.0, 10.0


class Progress:
    """Reports the progress of a job at limited frequency.

    report: called with each line; None reports nothing. terminal: lines are text, and an update
    overwrites the one before it; otherwise each line is a JSON object with an ``event``.
    """

    def __init__(self, report: Callable[[str], None] | None, terminal: bool = False) -> None:
        self.report, self.terminal = report, terminal
        self.total = self.before = 0
        self.last_update = time.monotonic()

    def start(self, text: str, total: int, before: int) -> None:
        """Report the start. before: outputs and errors of earlier runs."""
        self.total, self.before = total, before
        self.emit(text, "start", total=total, done=before)

    def update(self, done: int, errors: int, computed: int = 0, since: float | None = None) -> None:
        """Report the progress, unless the last update is too recent.

        done: outputs and errors of all runs. computed: outputs computed in this run; they are
        written when their batch ends. since: start of the computation, in seconds since the epoch.
        """
        now = time.monotonic()
        if now - self.last_update < (TERMINAL_SECONDS if self.terminal else JSON_SECONDS):
            return
        self.last_update = now
        # A retried batch is counted twice; do not exceed the total.
        all_computed = min(self.total, max(done, self.before + computed))
        # The rate excludes the start of the actors.
        seconds = time.time() - since if since else 0.0
        rate = computed / seconds if seconds > 0 else 0.0
        eta = (self.total - all_computed) / rate if rate else 0.0
        text = f"{done}/{self.total}"
        if all_computed > done:
            text += f" ({all_computed} computed)"
        if rate:
            text += f" | {rate:.1f} a second | about {_duration(eta)} left"
        if errors:
            text += f" | {errors} error(s)"
        fields = {"rate": round(rate, 3), "eta_seconds": round(eta, 1) if rate else None}
        self.emit(
            text, "progress", done=done, computed=all_computed, total=self.total, errors=errors,
            running=True, **fields,
        )  # fmt: skip

    def wait(self, text: str) -> None:
        """Report what the job waits for before it starts."""
        self.emit(text, "waiting")

    def emit(self, text: str, event: str, *, running: bool = False, **fields: Any) -> None:
        """Report one line. running: the next line may overwrite it in a terminal."""
        if self.report is None:
            return
        if not self.terminal:
            self.report(json.dumps({"event": event, "text": text, **fields}, ensure_ascii=False))
            return
        self.report(f"\r\x1b[K{text}" if running else f"\r\x1b[K{text}\n")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"

"""Progress of a corpus: one line with rate and estimate in a terminal, JSON lines elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

TERMINAL_SECONDS, LINES_SECONDS = 1.0, 10.0


class Progress:
    """Tells how far a job is, not more often than is of use.

    report: takes one line. terminal: lines for people, of which the running one ends in no
    newline ("\\r" first); else each line is one JSON object with its ``event``.
    """

    def __init__(self, report: Callable[[str], None] | None, terminal: bool = False) -> None:
        self.report, self.terminal = report, terminal
        self.total = self.before = 0
        self.told = time.monotonic()

    def start(self, text: str, total: int, before: int, **facts: Any) -> None:
        """The job's first line. before: outputs that an earlier run has done."""
        self.total, self.before = total, before
        self.say(text, "start", total=total, done=before, **facts)

    def update(self, done: int, errors: int, computed: int = 0, since: float | None = None) -> None:
        """Tell how far it is, if it is time to.

        done: outputs and errors of all runs. computed: what this run's models have done, which is
        written later, a batch at a time; since: when they began, in seconds of the epoch.
        """
        now = time.monotonic()
        if now - self.told < (TERMINAL_SECONDS if self.terminal else LINES_SECONDS):
            return
        self.told = now
        # A batch that was computed twice, after a death, counts to the end and not beyond.
        ahead = min(self.total, max(done, self.before + computed))
        # Starting the actors is not pace.
        seconds = time.time() - since if since else 0.0
        rate = computed / seconds if seconds > 0 else 0.0
        rest = (self.total - ahead) / rate if rate else 0.0
        text = f"{done}/{self.total}"
        if ahead > done:
            text += f" ({ahead} computed)"
        if rate:
            text += f" | {rate:.1f} a second | about {_clock(rest)} left"
        if errors:
            text += f" | {errors} error(s)"
        facts = {"rate": round(rate, 3), "eta_seconds": round(rest, 1) if rate else None}
        self.say(
            text, "progress", done=done, computed=ahead, total=self.total, errors=errors,
            running=True, **facts,
        )  # fmt: skip

    def say(self, text: str, event: str, *, running: bool = False, **facts: Any) -> None:
        """One line, for people or for machines."""
        if self.report is None:
            return
        if not self.terminal:
            self.report(json.dumps({"event": event, "text": text, **facts}, ensure_ascii=False))
            return
        self.report(f"\r\x1b[K{text}" if running else f"\r\x1b[K{text}\n")


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"

"""The lease queue: which styles wait, run, are done or failed. Its state survives a crash."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from osasis.storage import write_json

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
# A style whose worker dies this often is given up, so that it does not take its slot with it.
MAX_ATTEMPTS = 3


class LeaseQueue:
    """State of one job's styles, written to ``path`` at every change of state.

    Runs as a Ray actor. A slot that asks again after a crash gets the style that it held, so a
    style in flight continues from its checkpoint on the same slot. A queue that starts again on
    its file knows what is done, failed and held: the slots live on.
    """

    def __init__(self, path: Path, styles: list[str]) -> None:
        self.path = Path(path)
        self.states: dict[str, dict[str, Any]] = {s: {"state": WAITING} for s in styles}
        if self.path.is_file():
            for style, state in json.loads(self.path.read_text()).items():
                if style in self.states:
                    self.states[style] = state
        self._save()

    def lease(self, slot: int) -> str | None:
        """The next style for a slot, or None where nothing waits."""
        for style, now in self.states.items():
            if now["state"] == RUNNING and now["slot"] == slot:
                if now["attempts"] < MAX_ATTEMPTS:
                    return self._run(style, slot, now["attempts"] + 1)
                self.failed(style, f"its worker died {MAX_ATTEMPTS} times (out of memory?)")
        waiting = (s for s, now in self.states.items() if now["state"] == WAITING)
        style_or_none = next(waiting, None)
        return None if style_or_none is None else self._run(style_or_none, slot, 1)

    def _run(self, style: str, slot: int, attempts: int) -> str:
        self.states[style] = {
            "state": RUNNING,
            "slot": slot,
            "attempts": attempts,
            "since": time.time(),
        }
        self._save()
        return style

    def progress(self, style: str, iteration: int, of: int, total: float) -> None:
        """Note a style's iteration and total loss; kept in memory only."""
        self.states[style] |= {"iteration": iteration, "of": of, "loss": total}

    def done(self, style: str, seconds: float) -> None:
        self.states[style] = {"state": DONE, "seconds": seconds}
        self._save()

    def failed(self, style: str, reason: str) -> None:
        self.states[style] = {"state": FAILED, "reason": reason}
        self._save()

    def snapshot(self) -> dict[str, dict[str, Any]]:
        return self.states

    def _save(self) -> None:
        write_json(self.path, self.states)

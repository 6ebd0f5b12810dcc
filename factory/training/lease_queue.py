"""The lease queue: states of a job's styles, kept in a file that survives a crash."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from factory.core.failures import DIED, ERROR, MEMORY
from osasis.storage import write_json

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
# Answer to a slot while no style waits but others train: a failure may return one.
ASK_AGAIN = ""
RETRIES = 2
RETRY_ON = (DIED, MEMORY, ERROR)
# Starts of a slot's worker without a lease after which the slot is given up.
MAX_STARTS = 4


class LeaseQueue:
    """State of one job's styles, written to ``path`` at every change of state.

    Runs as a Ray actor. A slot that asks again after a crash gets the style that it held, which
    continues from its checkpoint; where the slot's node is lost, another slot gets the style. A
    restarted queue reads its file and keeps done, failed and leased styles.
    """

    def __init__(
        self,
        path: Path,
        styles: list[str],
        retries: int = RETRIES,
        retry_on: Collection[str] = RETRY_ON,
    ) -> None:
        """retries: how often a style is tried again after a failure of a kind in retry_on."""
        self.path = Path(path)
        self.retries, self.retry_on = retries, tuple(retry_on)
        self.starts: dict[int, int] = {}
        self.slot_errors: list[str] = []
        self.states: dict[str, dict[str, Any]] = {s: {"state": WAITING} for s in styles}
        if self.path.is_file():
            for style, state in json.loads(self.path.read_text()).items():
                if style in self.states:
                    self.states[style] = state
        self._save()

    def worker_started(self, slot: int) -> bool:
        """Count a start of a slot's worker; False after ``MAX_STARTS`` starts without a lease."""
        self.starts[slot] = self.starts.get(slot, 0) + 1
        return self.starts[slot] <= MAX_STARTS

    def worker_failed(self, slot: int, reason: str) -> None:
        """Note why a slot's worker could not load its base or photos."""
        self.slot_errors.append(f"slot {slot} could not start: {reason}")

    def worker_errors(self) -> list[str]:
        """The reasons noted by ``worker_failed``."""
        return self.slot_errors

    def lease(self, slot: int, node: str = "") -> str | None:
        """The next style for a slot, or ``ASK_AGAIN``; None when all are done or failed."""
        self.starts[slot] = 0
        for style, now in self.states.items():
            if now["state"] == RUNNING and now["slot"] == slot:
                # Only a new worker of the slot asks while the style runs: the old worker has died.
                self._failed(style, "its worker died (out of memory?)", DIED)
                if now["attempts"] <= self.retries and DIED in self.retry_on:
                    return self._run(style, slot, node)
        for style, now in self.states.items():
            if now["state"] == WAITING:
                return self._run(style, slot, node)
        running = any(now["state"] == RUNNING for now in self.states.values())
        return ASK_AGAIN if running else None

    def _run(self, style: str, slot: int, node: str) -> str:
        attempts = self.states[style].get("attempts", 0) + 1
        self.states[style] = {
            "state": RUNNING,
            "slot": slot,
            "node": node,
            "attempts": attempts,
            "since": time.time(),
        }
        self._save()
        return style

    def progress(
        self, style: str, iteration: int, of: int, losses: dict[str, float], slot: int
    ) -> None:
        """Note a style's iteration and losses, in memory only."""
        now = self.states[style]
        if now["state"] == RUNNING and now["slot"] == slot:
            now.setdefault("first", (time.time(), iteration))
            now |= {"iteration": iteration, "of": of, "losses": losses, "loss": losses["total"]}

    def done(self, style: str, seconds: float) -> None:
        """Note that a style's bundle is on disk. seconds: duration of the last attempt."""
        attempts = self.states[style].get("attempts", 1)
        self.states[style] = {"state": DONE, "seconds": seconds, "attempts": attempts}
        self._save()

    def failed(self, style: str, reason: str, kind: str = ERROR, slot: int | None = None) -> None:
        """Return a failed style to the queue, or give it up after its last attempt."""
        now = self.states[style]
        if slot is None or (now["state"] == RUNNING and now["slot"] == slot):
            self._failed(style, reason, kind)
            self._save()

    def _failed(self, style: str, reason: str, kind: str) -> None:
        attempts = self.states[style].get("attempts", 1)
        if kind in self.retry_on and attempts <= self.retries:
            self.states[style] = {"state": WAITING, "attempts": attempts, "before": reason}
            return
        if attempts > 1:
            reason += f" (attempt {attempts})"
        self.states[style] = {
            "state": FAILED,
            "reason": reason,
            "kind": kind,
            "attempts": attempts,
        }

    def release(self, nodes: Collection[str] = (), slot: int | None = None) -> list[str]:
        """Return the leases of lost nodes and of an ended slot; gives the styles' ids."""
        lost = [
            style
            for style, now in self.states.items()
            if now["state"] == RUNNING and (now["node"] in nodes or now["slot"] == slot)
        ]
        for style in lost:
            self._failed(style, "its node was lost", DIED)
        if lost:
            self._save()
        return lost

    def snapshot(self) -> dict[str, dict[str, Any]]:
        return self.states

    def _save(self) -> None:
        write_json(self.path, self.states)

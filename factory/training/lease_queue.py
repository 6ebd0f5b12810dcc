"""The lease queue: states of a job's styles, kept in a file or object that survives a crash."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection
from dataclasses import replace

from factory.core.failures import DIED, DISK, ERROR, MEMORY
from factory.core.object_store import StoreError
from factory.core.stores import Location, open_store
from factory.reports.style_states import (
    Done,
    Failed,
    Progress,
    Running,
    Snapshot,
    Waiting,
    from_dict,
    to_dict,
)
from osasis.storage import DiskFullError, json_bytes

QUEUE = "queue.json"
# Answer to a slot when no style waits but some are still running: a failure may return one.
ASK_AGAIN = ""
RETRIES = 2
RETRY_ON = (DIED, MEMORY, ERROR)
# A slot whose worker starts more often than this without leasing a style is given up.
MAX_STARTS = 4


class LeaseQueue:
    """State of one job's styles, written to ``QUEUE`` of the job's folder at every change of state.

    Runs as a Ray actor. A slot whose worker was restarted after a crash gets the style that the
    slot held and resumes it from its checkpoint; if the node is lost, another slot gets the style.
    A restarted queue reads its file and keeps done, failed and leased styles. After a full disk,
    the queue leases no further style.
    """

    def __init__(
        self,
        folder: Location,
        styles: list[str],
        retries: int = RETRIES,
        retry_on: Collection[str] = RETRY_ON,
    ) -> None:
        """folder: the job's, by path or URI. retries: of a style after failures of the kinds in
        retry_on."""
        self.store = open_store(folder)
        self.retries, self.retry_on = retries, tuple(retry_on)
        self.starts: dict[int, int] = {}
        self.slot_errors: list[str] = []
        self.full = ""
        self.stopping = False
        self.states: Snapshot = {s: Waiting() for s in styles}
        with contextlib.suppress(FileNotFoundError):
            for style, state in json.loads(self.store.read(QUEUE)).items():
                if style in self.states:
                    self.states[style] = from_dict(state)
        self._save()

    def worker_started(self, slot: int) -> bool:
        """Count a start of a slot's worker; False after ``MAX_STARTS`` starts without a lease."""
        self.starts[slot] = self.starts.get(slot, 0) + 1
        return self.starts[slot] <= MAX_STARTS

    def worker_failed(self, slot: int, reason: str) -> None:
        """Record why a slot's worker could not load its base or photos."""
        self.slot_errors.append(f"slot {slot} could not start: {reason}")

    def worker_errors(self) -> list[str]:
        """The reasons recorded by ``worker_failed``."""
        return self.slot_errors

    def disk_full(self) -> str:
        """The text of the first error of a full disk, or an empty string."""
        return self.full

    def lease(self, slot: int, node: str = "") -> str | None:
        """The next style for a slot, or ``ASK_AGAIN``; None when all are done or failed."""
        if self.full or self.stopping:
            return None
        self.starts[slot] = 0
        for style in self.states:
            if self._is_held(style, slot):
                # A slot asks while its style runs only if its previous worker has died.
                self._fail(style, "its worker died (out of memory?)", DIED)
                self._save()
                if isinstance(self.states[style], Waiting):
                    return self._run(style, slot, node)
        for style, state in self.states.items():
            if isinstance(state, Waiting):
                return self._run(style, slot, node)
        running = any(isinstance(state, Running) for state in self.states.values())
        return ASK_AGAIN if running else None

    def _is_held(self, style: str, slot: int) -> bool:
        state = self.states[style]
        return isinstance(state, Running) and state.slot == slot

    def _run(self, style: str, slot: int, node: str) -> str:
        self.states[style] = Running(slot, node, self.states[style].attempts + 1, time.time())
        self._save()
        return style

    def progress(
        self, style: str, iteration: int, of: int, losses: dict[str, float], slot: int
    ) -> bool:
        """Record a style's iteration and losses, in memory only; returns whether to stop."""
        state = self.states[style]
        if isinstance(state, Running) and state.slot == slot:
            first = state.progress.first if state.progress else (time.time(), iteration)
            self.states[style] = replace(state, progress=Progress(first, iteration, of, losses))
        return self.stopping

    def stop(self) -> None:
        """Lease no further style, and ask the slots to save theirs and to give them back."""
        self.stopping = True

    def give_back(self, style: str, slot: int) -> None:
        """Requeue a style whose slot has saved it and stops; this counts as no attempt."""
        if self._is_held(style, slot):
            attempts = self.states[style].attempts - 1
            self.states[style] = Waiting(attempts, before="its slot was stopped")
            self._save()

    def done(self, style: str, seconds: float) -> None:
        """Record that a style's bundle is on disk. seconds: duration of the last attempt."""
        self.states[style] = Done(seconds, max(1, self.states[style].attempts))
        self._save()

    def failed(self, style: str, reason: str, kind: str = ERROR, slot: int | None = None) -> None:
        """Requeue a failed style, or give it up after its last attempt.

        slot: the reporting slot; ignored if that slot no longer holds the style.
        """
        if slot is None or self._is_held(style, slot):
            self._fail(style, reason, kind)
            self._save()

    def _fail(self, style: str, reason: str, kind: str) -> None:
        attempts = max(1, self.states[style].attempts)
        if kind == DISK:  # the style is as good as before; the run ends
            self.full = self.full or reason
            self.states[style] = Waiting(attempts - 1, before=reason)
            return
        if kind in self.retry_on and attempts <= self.retries:
            self.states[style] = Waiting(attempts, before=reason)
            return
        if attempts > 1:
            reason += f" (attempt {attempts})"
        self.states[style] = Failed(reason, kind, attempts)

    def release(self, nodes: Collection[str] = (), slot: int | None = None) -> list[str]:
        """Revoke the leases of lost nodes and of an ended slot; returns the styles' ids."""
        lost = [
            style
            for style, state in self.states.items()
            if isinstance(state, Running) and (state.node in nodes or state.slot == slot)
        ]
        for style in lost:
            self._fail(style, "its node was lost", DIED)
        if lost:
            self._save()
        return lost

    def snapshot(self) -> Snapshot:
        return self.states

    def _save(self) -> None:
        states = {style: to_dict(state) for style, state in self.states.items()}
        try:
            self.store.write(QUEUE, json_bytes(states))
        except (DiskFullError, StoreError) as e:
            self.full = self.full or str(e)

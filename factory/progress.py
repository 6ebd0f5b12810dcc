"""Progress of a run as lines: what changed since the last look, with an estimate of the rest."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

INTERVAL_SECONDS = 5.0


class Progress:
    """Turns snapshots of the queue into lines: changes of state, and a summary now and then."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self.report = report
        self.states: dict[str, str] = {}
        self.line = ""
        self.first: tuple[float, float] | None = None
        self.last = time.monotonic()

    def __call__(self, snapshot: dict[str, dict[str, Any]]) -> None:
        for style, now in snapshot.items():
            if self.states.get(style) != now["state"]:
                self.states[style] = now["state"]
                if now["state"] == "done":
                    self.report(f"{style}: trained in {now['seconds']:.0f} s")
                elif now["state"] == "failed":
                    self.report(f"{style}: failed: {now['reason']}")
        if time.monotonic() - self.last >= INTERVAL_SECONDS:
            self.last = time.monotonic()
            line = self.summary(snapshot)
            if line != self.line:
                self.line = line
                self.report(line)

    def summary(self, snapshot: dict[str, dict[str, Any]]) -> str:
        """One line: styles done, those running with iteration and loss, estimated rest."""
        finished = sum(s["state"] in ("done", "failed") for s in snapshot.values())
        share = finished + sum(
            s.get("iteration", 0) / max(1, s.get("of", 1))
            for s in snapshot.values()
            if s["state"] == "running"
        )
        running = [
            f"{name} {s['iteration']}/{s['of']} loss {s['loss']:.2f}"
            for name, s in snapshot.items()
            if s["state"] == "running" and "iteration" in s
        ]
        line = f"{finished}/{len(snapshot)} done"
        if running:
            line += " | " + ", ".join(running[:4])
        return line + self._rest(share, len(snapshot))

    def _rest(self, share: float, styles: int) -> str:
        """An estimate from the pace since the first iteration; starting the slots is not pace."""
        now = time.monotonic()
        if self.first is None and share > 0:
            self.first = (now, share)
        if self.first is None or share <= self.first[1]:
            return ""
        pace = (share - self.first[1]) / (now - self.first[0])
        return f" | about {(styles - share) / pace:.0f} s left"

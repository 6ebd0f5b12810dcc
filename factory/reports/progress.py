"""What one sees of a run: a live table in a terminal, else JSON lines or plain lines.

All go to standard error. A display gets messages (``say``) and snapshots of the queue
(``update``), and is a context manager.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from osasis.errors import UserError, did_you_mean

Snapshot = dict[str, dict[str, Any]]
INTERVAL_SECONDS = 5.0
KINDS = ("auto", "table", "lines", "json", "none")
# Rows of the table beyond those that are training: what ended last.
RECENT = 6


class Display(Protocol):
    """Where a run's progress goes."""

    def say(self, line: str) -> None: ...
    def update(self, snapshot: Snapshot) -> None: ...
    def __enter__(self) -> Display: ...
    def __exit__(self, *error: object) -> None: ...


def make_display(kind: str, report: Callable[[str], None] | None = None) -> Display:
    """A display of a kind; ``auto`` is a table in a terminal and JSON lines elsewhere.

    report: where lines and JSON lines go instead of standard error.
    """
    if kind not in KINDS:
        near = did_you_mean(kind, KINDS)
        raise UserError(f"unknown progress {kind!r}: choose one of {', '.join(KINDS)}{near}")
    if kind == "auto":
        kind = "table" if sys.stderr.isatty() else "json"
    write = report or (lambda line: print(line, file=sys.stderr, flush=True))
    if kind == "table":
        return TableDisplay()
    if kind == "json":
        return JsonDisplay(write)
    return LineDisplay(write if kind == "lines" else lambda line: None)


class Pace:
    """Estimates of what is left, from the pace since the first iteration: starting the slots is
    not pace."""

    def __init__(self) -> None:
        self.first: tuple[float, float] | None = None

    def rest(self, snapshot: Snapshot) -> float | None:
        """Seconds until every style is settled; None where nothing is known yet."""
        share = sum(_share(s) for s in snapshot.values())
        now = time.monotonic()
        if self.first is None and share > 0:
            self.first = (now, share)
        if self.first is None or share <= self.first[1]:
            return None
        pace = (share - self.first[1]) / (now - self.first[0])
        return (len(snapshot) - share) / pace


def style_rest(state: dict[str, Any]) -> float | None:
    """Seconds until a style that is training has done its iterations."""
    if state["state"] != "running" or "iteration" not in state:
        return None
    since, iteration = state["first"]
    if state["iteration"] <= iteration:
        return None
    pace = (state["iteration"] - iteration) / max(1e-6, time.time() - since)
    return float((state["of"] - state["iteration"]) / pace)


def _share(state: dict[str, Any]) -> float:
    if state["state"] in ("done", "failed"):
        return 1.0
    return float(state.get("iteration", 0) / max(1, state.get("of", 1)))


class LineDisplay:
    """Changes of state as lines, and a summary now and then."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write
        self.states: dict[str, str] = {}
        self.line = ""
        self.pace = Pace()
        self.last = time.monotonic()

    def __enter__(self) -> LineDisplay:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def say(self, line: str) -> None:
        self.write(line)

    def update(self, snapshot: Snapshot) -> None:
        for style, now in snapshot.items():
            key = now["state"] + now.get("before", "")
            if self.states.get(style) != key:
                self.states[style] = key
                if told := change(style, now):
                    self.write(told)
        if time.monotonic() - self.last >= INTERVAL_SECONDS:
            self.last = time.monotonic()
            line = self.summary(snapshot)
            if line != self.line:
                self.line = line
                self.write(line)

    def summary(self, snapshot: Snapshot) -> str:
        """One line: styles done, those running with iteration and loss, estimated rest."""
        finished = sum(s["state"] in ("done", "failed") for s in snapshot.values())
        running = [
            f"{name} {s['iteration']}/{s['of']} loss {s['loss']:.2f}"
            for name, s in snapshot.items()
            if s["state"] == "running" and "iteration" in s
        ]
        line = f"{finished}/{len(snapshot)} done"
        if running:
            line += " | " + ", ".join(running[:4])
        rest = self.pace.rest(snapshot)
        return line if rest is None else f"{line} | about {rest:.0f} s left"


def change(style: str, now: dict[str, Any]) -> str | None:
    """The line that tells of a style's new state, where it is worth one."""
    if now["state"] == "done":
        return f"{style}: trained in {now['seconds']:.0f} s"
    if now["state"] == "failed":
        return f"{style}: failed: {now['reason']}"
    if now["state"] == "waiting" and "before" in now:
        return f"{style}: will be tried again ({now['before']})"
    return None


class JsonDisplay:
    """A JSON document a line: messages, each style's changes, and where all stand now and then."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write
        self.states: dict[str, str] = {}
        self.pace = Pace()
        self.last = time.monotonic()

    def __enter__(self) -> JsonDisplay:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def say(self, line: str) -> None:
        self._event("message", text=line)

    def update(self, snapshot: Snapshot) -> None:
        due = time.monotonic() - self.last >= INTERVAL_SECONDS
        for style, now in snapshot.items():
            key = now["state"] + str(now.get("attempts", 0))
            if self.states.get(style) != key or (due and now["state"] == "running"):
                self.states[style] = key
                self._style(style, now)
        if due:
            self.last = time.monotonic()
            rest = self.pace.rest(snapshot)
            self._event("progress", **counts(snapshot), eta_seconds=_rounded(rest))

    def _style(self, style: str, now: dict[str, Any]) -> None:
        known = ("slot", "iteration", "of", "losses", "attempts", "seconds", "reason", "kind")
        facts = {k: now[k] for k in (*known, "before") if k in now}
        eta = _rounded(style_rest(now))
        self._event("style", style=style, state=now["state"], **facts, eta_seconds=eta)

    def _event(self, event: str, **facts: Any) -> None:
        self.write(json.dumps({"time": round(time.time(), 1), "event": event, **facts}))


class TableDisplay:
    """A live table: the styles that are training, what ended last, and how many wait."""

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self.console = console or Console(stderr=True)
        self.live = Live(console=self.console, refresh_per_second=4, transient=False)
        self.pace = Pace()
        self.ended: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> TableDisplay:
        self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def say(self, line: str) -> None:
        self.live.console.print(line, markup=False, highlight=False)

    def update(self, snapshot: Snapshot) -> None:
        for style, now in snapshot.items():
            if now["state"] in ("done", "failed"):
                self.ended.setdefault(style, now)
        self.live.update(self.table(snapshot))

    def table(self, snapshot: Snapshot) -> Any:
        """The table of a snapshot."""
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, expand=False)
        for name, justify in (
            *(("slot", "right"), ("style", "left"), ("state", "left"), ("iteration", "right")),
            *(("loss", "right"), ("parts of the loss", "left"), ("left", "right")),
        ):
            table.add_column(name, justify=justify, header_style="dim", no_wrap=True)  # type: ignore[arg-type]
        running = [(k, s) for k, s in snapshot.items() if s["state"] == "running"]
        for style, now in sorted(running, key=lambda r: r[1]["slot"]):
            started = "iteration" in now
            table.add_row(
                str(now["slot"]),
                escape(style),
                Text("training" if started else "starting", style="cyan"),
                f"{now['iteration']}/{now['of']}" if started else "",
                f"{now['loss']:.3f}" if started else "",
                Text(_parts(now.get("losses", {})), style="dim"),
                clock(style_rest(now)),
            )
        for style, now in list(self.ended.items())[-RECENT:]:
            good = now["state"] == "done"
            mark = Text("trained" if good else "failed", style="green" if good else "red")
            why = "" if good else now["reason"][:60]
            took = clock(now["seconds"]) if good else ""
            table.add_row("", escape(style), mark, "", "", Text(why, style="red"), took)
        c, rest = counts(snapshot), clock(self.pace.rest(snapshot))
        table.caption = (
            f"{c['done']} trained, {c['failed']} failed, {c['running']} training, "
            f"{c['waiting']} waiting" + (f", about {rest} left" if rest else "")
        )
        return table


def counts(snapshot: Snapshot) -> dict[str, int]:
    """How many styles are in each state."""
    names = ("waiting", "running", "done", "failed")
    return {n: sum(s["state"] == n for s in snapshot.values()) for n in names}


def clock(seconds: float | None) -> str:
    """43 s, 2:10, 1:05:00."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _parts(losses: dict[str, float]) -> str:
    parts = sorted(((v, k) for k, v in losses.items() if k != "total" and v), reverse=True)
    return "  ".join(f"{k} {v:.2f}" for v, k in parts[:3])


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)

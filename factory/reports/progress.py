"""Progress of a training run on standard error: a live table, plain lines or JSON lines."""

from __future__ import annotations

import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from factory.reports.style_states import (
    STATES,
    Done,
    Failed,
    Running,
    Snapshot,
    StyleState,
    Waiting,
    to_dict,
)
from osasis.errors import UserError, did_you_mean

# Seconds between summary lines.
INTERVAL_SECONDS = 5.0
KINDS = ("auto", "table", "lines", "json", "none")
# Rows of the table for finished styles, beside those for running styles.
MAX_FINISHED_ROWS = 6
# Fields of a style's state in a JSON line, in this order.
JSON_FIELDS = (
    *("slot", "iteration", "of", "losses", "attempts"),
    *("seconds", "reason", "kind", "before"),
)


class Display(ABC):
    """Base class of displays: a context manager that gets messages and snapshots of the queue."""

    @abstractmethod
    def message(self, line: str) -> None:
        """Show one line of text."""

    @abstractmethod
    def update(self, snapshot: Snapshot) -> None:
        """Show the states of all styles."""

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *error: object) -> None:  # noqa: B027  only the table has to be closed
        pass


def make_display(kind: str, report: Callable[[str], None] | None = None) -> Display:
    """A display of a kind; ``auto`` is a table in a terminal and JSON lines elsewhere.

    report: receives lines and JSON lines instead of standard error. Raises UserError for an
    unknown kind.
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


class EtaEstimator:
    """Estimates the time left in a run from its rate since the first iteration.

    The time before the first iteration, in which slots start, does not count.
    """

    def __init__(self) -> None:
        self.first: tuple[float, float] | None = None

    def seconds_left(self, snapshot: Snapshot) -> float | None:
        """Seconds until every style is done or failed; None before there is a rate."""
        finished = sum(_fraction_done(s) for s in snapshot.values())
        now = time.monotonic()
        if self.first is None and finished > 0:
            self.first = (now, finished)
        if self.first is None or finished <= self.first[1]:
            return None
        rate = (finished - self.first[1]) / (now - self.first[0])
        return (len(snapshot) - finished) / rate


def style_seconds_left(state: StyleState) -> float | None:
    """Seconds until a running style has done its iterations; None before there is a rate."""
    if not isinstance(state, Running) or state.progress is None:
        return None
    progress, (since, iteration) = state.progress, state.progress.first
    if progress.iteration <= iteration:
        return None
    rate = (progress.iteration - iteration) / max(1e-6, time.time() - since)
    return (progress.of - progress.iteration) / rate


def _fraction_done(state: StyleState) -> float:
    if isinstance(state, (Done, Failed)):
        return 1.0
    if isinstance(state, Running) and state.progress is not None:
        return state.progress.iteration / max(1, state.progress.of)
    return 0.0


class LineDisplay(Display):
    """A line for each change of state, and a summary line every ``INTERVAL_SECONDS``."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write
        self.states: dict[str, tuple[str, str | None]] = {}
        self.last_summary = ""
        self.last_time = time.monotonic()
        self.eta = EtaEstimator()

    def message(self, line: str) -> None:
        self.write(line)

    def update(self, snapshot: Snapshot) -> None:
        for style, state in snapshot.items():
            key = (state.state, state.before if isinstance(state, (Waiting, Failed)) else None)
            if self.states.get(style) != key:
                self.states[style] = key
                if line := describe_change(style, state):
                    self.write(line)
        if time.monotonic() - self.last_time >= INTERVAL_SECONDS:
            self.last_time = time.monotonic()
            summary = self.summary(snapshot)
            if summary != self.last_summary:
                self.last_summary = summary
                self.write(summary)

    def summary(self, snapshot: Snapshot) -> str:
        """Number of finished styles, iteration and loss of running styles, and time left."""
        finished = sum(isinstance(s, (Done, Failed)) for s in snapshot.values())
        running = [
            f"{style} {s.progress.iteration}/{s.progress.of} loss {s.progress.loss:.2f}"
            for style, s in snapshot.items()
            if isinstance(s, Running) and s.progress is not None
        ]
        line = f"{finished}/{len(snapshot)} done"
        if running:
            line += " | " + ", ".join(running[:4])
        seconds = self.eta.seconds_left(snapshot)
        return line if seconds is None else f"{line} | about {seconds:.0f} s left"


def describe_change(style: str, state: StyleState) -> str | None:
    """One line for a finished or requeued style; None for other states."""
    if isinstance(state, Done):
        return f"{style}: trained in {state.seconds:.0f} s"
    if isinstance(state, Failed):
        return f"{style}: failed: {state.reason}"
    if isinstance(state, Waiting) and state.before is not None:
        return f"{style}: will be retried ({state.before})"
    return None


class JsonDisplay(Display):
    """One JSON object per line.

    Events: ``message``; ``style`` for each change of state, and every ``INTERVAL_SECONDS`` for
    running styles; ``progress``, the counts by state, every ``INTERVAL_SECONDS``.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write
        self.states: dict[str, tuple[str, int]] = {}
        self.last_time = time.monotonic()
        self.eta = EtaEstimator()

    def message(self, line: str) -> None:
        self._event("message", text=line)

    def update(self, snapshot: Snapshot) -> None:
        due = time.monotonic() - self.last_time >= INTERVAL_SECONDS
        for style, state in snapshot.items():
            key = (state.state, state.attempts)
            if self.states.get(style) != key or (due and isinstance(state, Running)):
                self.states[style] = key
                self._style(style, state)
        if due:
            self.last_time = time.monotonic()
            seconds = _rounded(self.eta.seconds_left(snapshot))
            self._event("progress", **counts(snapshot), eta_seconds=seconds)

    def _style(self, style: str, state: StyleState) -> None:
        values = to_dict(state)
        values = {k: values[k] for k in JSON_FIELDS if k in values}
        seconds = _rounded(style_seconds_left(state))
        self._event("style", style=style, state=state.state, **values, eta_seconds=seconds)

    def _event(self, event: str, **values: Any) -> None:
        self.write(json.dumps({"time": round(time.time(), 1), "event": event, **values}))


class TableDisplay(Display):
    """A live table: running styles, the styles that finished last, and counts by state."""

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self.live = Live(
            console=console or Console(stderr=True), refresh_per_second=4, transient=False
        )
        self.eta = EtaEstimator()
        self.finished: dict[str, Done | Failed] = {}

    def __enter__(self) -> TableDisplay:
        self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def message(self, line: str) -> None:
        self.live.console.print(line, markup=False, highlight=False)

    def update(self, snapshot: Snapshot) -> None:
        for style, state in snapshot.items():
            if isinstance(state, (Done, Failed)):
                self.finished.setdefault(style, state)
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
        running = [(style, s) for style, s in snapshot.items() if isinstance(s, Running)]
        for style, state in sorted(running, key=lambda r: r[1].slot):
            p = state.progress
            table.add_row(
                str(state.slot),
                escape(style),
                Text("training" if p else "starting", style="cyan"),
                f"{p.iteration}/{p.of}" if p else "",
                f"{p.loss:.3f}" if p else "",
                Text(_largest_losses(p.losses) if p else "", style="dim"),
                clock(style_seconds_left(state)),
            )
        for style, end in list(self.finished.items())[-MAX_FINISHED_ROWS:]:
            if isinstance(end, Done):
                state_cell, reason, seconds = Text("trained", style="green"), "", end.seconds
            else:
                state_cell, reason, seconds = Text("failed", style="red"), end.reason[:60], None
            cells = (state_cell, "", "", Text(reason, style="red"), clock(seconds))
            table.add_row("", escape(style), *cells)
        c, left = counts(snapshot), clock(self.eta.seconds_left(snapshot))
        table.caption = (
            f"{c['done']} trained, {c['failed']} failed, {c['running']} training, "
            f"{c['waiting']} waiting" + (f", about {left} left" if left else "")
        )
        return table


def counts(snapshot: Snapshot) -> dict[str, int]:
    """Number of styles in each state."""
    return {name: sum(s.state == name for s in snapshot.values()) for name in STATES}


def clock(seconds: float | None) -> str:
    """A duration as text: 43 s, 2:10, 1:05:00; empty for None."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _largest_losses(losses: dict[str, float]) -> str:
    parts = sorted(((v, k) for k, v in losses.items() if k != "total" and v), reverse=True)
    return "  ".join(f"{k} {v:.2f}" for v, k in parts[:3])


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)

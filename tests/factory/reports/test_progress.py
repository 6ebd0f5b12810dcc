"""Displays of a run's progress: lines, JSON lines, and the live table."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator

import pytest

from factory.reports import progress
from factory.reports.progress import (
    EtaEstimator,
    JsonDisplay,
    LineDisplay,
    TableDisplay,
    clock,
    make_display,
    style_seconds_left,
)
from factory.reports.style_states import Done, Failed, Progress, Running, Snapshot, Waiting
from osasis.errors import UserError


class Clock:
    """A fake clock for ``time.time`` and ``time.monotonic``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "time", lambda: self.now)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    with monkeypatch.context() as patch:
        yield Clock(patch)


def running(iteration: int, slot: int = 0, first_iteration: int = 0) -> Running:
    losses = {"recon_l1": 0.5, "cross_dom": 1.5, "structure": 0.0, "total": 2.0}
    progress = Progress((1000.0, first_iteration), iteration, of=10, losses=losses)
    return Running(slot, "node", attempts=1, since=1000.0, progress=progress)


STARTING = Running(slot=2, node="node", attempts=1, since=1000.0)
DONE = Done(seconds=7.0, attempts=1)
FAILED = Failed("x.png: no such file", "image", attempts=1)
WAITING = Waiting()


def test_eta_of_a_run(now: Clock) -> None:
    eta = EtaEstimator()
    assert eta.seconds_left({"a": WAITING, "b": WAITING}) is None
    now.now += 100  # the time in which slots start does not count
    assert eta.seconds_left({"a": running(2), "b": WAITING}) is None
    now.now += 20
    # 0.4 styles in 20 s, and 1.4 left.
    assert eta.seconds_left({"a": running(6), "b": WAITING}) == pytest.approx(70)
    # A failed style counts as finished.
    assert eta.seconds_left({"a": running(6), "b": FAILED}) == pytest.approx(0.4 / (1.4 / 20))


def test_eta_of_a_style(now: Clock) -> None:
    now.now += 8
    assert style_seconds_left(running(4)) == pytest.approx(12)
    # Iterations before a resume do not count.
    assert style_seconds_left(running(4, first_iteration=2)) == pytest.approx(24)
    assert style_seconds_left(running(4, first_iteration=4)) is None
    assert style_seconds_left(DONE) is None
    assert style_seconds_left(STARTING) is None


def test_lines_show_each_change_once_and_summaries_at_intervals(now: Clock) -> None:
    lines: list[str] = []
    display = LineDisplay(lines.append)
    display.message("a message")
    retry = Waiting(attempts=1, before="its worker died")
    for _ in range(3):
        display.update({"a": DONE, "b": FAILED, "c": retry, "d": running(3)})
    assert lines == [
        "a message",
        "a: trained in 7 s",
        "b: failed: x.png: no such file",
        "c: will be retried (its worker died)",
    ]
    now.now += progress.INTERVAL_SECONDS
    display.update({"a": DONE, "b": FAILED, "c": retry, "d": running(3)})
    assert lines[4:] == ["2/4 done | d 3/10 loss 2.00"]
    now.now += progress.INTERVAL_SECONDS
    display.update({"a": DONE, "b": FAILED, "c": retry, "d": running(8)})
    assert lines[5:] == ["2/4 done | d 8/10 loss 2.00 | about 12 s left"]


def test_json_lines(now: Clock) -> None:
    lines: list[str] = []
    display = JsonDisplay(lines.append)
    display.message("hello")
    display.update({"a": running(2), "b": WAITING})
    display.update({"a": running(3), "b": WAITING})  # no line: neither due nor a change of state
    now.now += progress.INTERVAL_SECONDS
    display.update({"a": running(5), "b": FAILED})
    events = [json.loads(line) for line in lines]
    assert events[0] == {"time": 1000.0, "event": "message", "text": "hello"}
    assert [(e["event"], e.get("style"), e.get("state")) for e in events[1:]] == [
        ("style", "a", "running"),
        ("style", "b", "waiting"),
        ("style", "a", "running"),
        ("style", "b", "failed"),
        ("progress", None, None),
    ]
    assert [list(e)[2:] for e in events[2:]] == [
        ["style", "state", "eta_seconds"],
        ["style", "state", "slot", "iteration", "of", "losses", "attempts", "eta_seconds"],
        ["style", "state", "attempts", "reason", "kind", "eta_seconds"],
        ["waiting", "running", "done", "failed", "eta_seconds"],
    ]
    a = events[3]
    assert (a["slot"], a["iteration"], a["of"], a["losses"]["total"]) == (0, 5, 10, 2.0)
    assert a["eta_seconds"] == 5.0
    assert events[4]["reason"] == "x.png: no such file" and events[4]["kind"] == "image"
    counted = {k: events[5][k] for k in ("waiting", "running", "done", "failed")}
    assert counted == {"waiting": 0, "running": 1, "done": 0, "failed": 1}


def drawn(snapshot: Snapshot, width: int = 120) -> list[str]:
    """The lines of the table in a terminal."""
    from rich.console import Console

    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, height=40, no_color=True)
    with TableDisplay(console) as display:
        display.message("[not markup]")
        display.update(snapshot)
    text = file.getvalue()
    assert "[not markup]" in text
    console = Console(file=io.StringIO(), width=width, height=40)
    with console.capture() as captured:
        console.print(display.table(snapshot))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_the_table_shows_running_and_finished_styles_and_counts(now: Clock) -> None:
    now.now += 10
    snapshot = {
        **{f"w{i}": WAITING for i in range(200)},
        "second": running(5, slot=1),
        "first": running(4, slot=0),
        "starting": STARTING,
        "good": DONE,
        "bad": FAILED,
    }
    lines = drawn(snapshot)
    assert len(lines) == 1 + 3 + 2 + 1  # waiting styles have no rows
    cells = [line.split() for line in lines]
    assert cells[1][:5] == ["0", "first", "training", "4/10", "2.000"]
    assert cells[1][5:] == ["cross_dom", "1.50", "recon_l1", "0.50", "15", "s"]
    assert cells[2][:2] == ["1", "second"]
    assert cells[3] == ["2", "starting", "starting"]
    assert cells[4] == ["good", "trained", "7", "s"]
    assert cells[5] == ["bad", "failed", "x.png:", "no", "such", "file"]
    assert lines[6].strip().startswith("1 trained, 1 failed, 3 training, 200 waiting")


def test_make_display(capsys: pytest.CaptureFixture[str]) -> None:
    # Standard error is not a terminal in tests.
    assert isinstance(make_display("auto"), JsonDisplay)
    make_display("lines").message("to standard error")
    make_display("none").message("to nowhere")
    kept = capsys.readouterr()
    assert (kept.out, kept.err) == ("", "to standard error\n")
    with pytest.raises(UserError, match=r"unknown progress 'tabel': choose one of .*nearest: tabl"):
        make_display("tabel")


def test_clock() -> None:
    texts = [clock(s) for s in (None, 0.4, 99.4, 130, 3900)]
    assert texts == ["", "0 s", "99 s", "2:10", "1:05:00"]

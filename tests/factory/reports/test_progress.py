"""What one sees of a run: lines, JSON lines, and the live table."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from factory.reports import progress
from factory.reports.progress import (
    JsonDisplay,
    LineDisplay,
    Pace,
    Snapshot,
    TableDisplay,
    clock,
    make_display,
    style_rest,
)
from osasis.errors import UserError


class Clock:
    """Time that moves when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "time", lambda: self.now)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    with monkeypatch.context() as patch:
        yield Clock(patch)


def running(iteration: int, of: int = 10, slot: int = 0, since: float = 1000.0) -> dict[str, Any]:
    losses = {"recon_l1": 0.5, "cross_dom": 1.5, "structure": 0.0, "total": 2.0}
    return {
        **{"state": "running", "slot": slot, "attempts": 1, "first": (since, 0)},
        **{"iteration": iteration, "of": of, "loss": 2.0, "losses": losses},
    }


DONE = {"state": "done", "seconds": 7.0, "attempts": 1}
FAILED = {"state": "failed", "reason": "x.png: no such file", "kind": "image", "attempts": 1}
WAITING = {"state": "waiting"}


def test_a_runs_rest_follows_from_its_pace(now: Clock) -> None:
    pace = Pace()
    assert pace.rest({"a": WAITING, "b": WAITING}) is None
    now.now += 100  # starting the slots is no pace
    assert pace.rest({"a": running(2), "b": WAITING}) is None
    now.now += 20
    # 0.4 styles in 20 s, and 1.4 to go.
    assert pace.rest({"a": running(6), "b": WAITING}) == pytest.approx(70)
    # A style that failed is settled too.
    assert pace.rest({"a": running(6), "b": FAILED}) == pytest.approx(0.4 / (1.4 / 20))


def test_a_styles_rest_follows_from_its_own_pace(now: Clock) -> None:
    state = running(4)
    now.now += 8
    assert style_rest(state) == pytest.approx(12)
    # A resumed style is not paced by what was done before.
    assert style_rest({**state, "first": (1000.0, 2)}) == pytest.approx(24)
    assert style_rest({**state, "first": (1000.0, 4)}) is None
    assert style_rest(DONE) is None
    assert style_rest({"state": "running", "slot": 0}) is None


def test_lines_tell_changes_once_and_a_summary_now_and_then(now: Clock) -> None:
    lines: list[str] = []
    display = LineDisplay(lines.append)
    display.say("a message")
    retry = {"state": "waiting", "attempts": 1, "before": "its worker died"}
    for _ in range(3):
        display.update({"a": DONE, "b": FAILED, "c": retry, "d": running(3)})
    assert lines == [
        "a message",
        "a: trained in 7 s",
        "b: failed: x.png: no such file",
        "c: will be tried again (its worker died)",
    ]
    now.now += progress.INTERVAL_SECONDS
    display.update({"a": DONE, "b": FAILED, "c": retry, "d": running(3)})
    assert lines[4:] == ["2/4 done | d 3/10 loss 2.00"]
    now.now += progress.INTERVAL_SECONDS
    display.update({"a": DONE, "b": FAILED, "c": retry, "d": running(8)})
    assert lines[5:] == ["2/4 done | d 8/10 loss 2.00 | about 12 s left"]


def test_json_lines_are_documents_with_all_that_is_known(now: Clock) -> None:
    lines: list[str] = []
    display = JsonDisplay(lines.append)
    display.say("hello")
    display.update({"a": running(2), "b": WAITING})
    display.update({"a": running(3), "b": WAITING})  # not due: no change of state
    now.now += progress.INTERVAL_SECONDS
    display.update({"a": running(5), "b": FAILED})
    told = [json.loads(line) for line in lines]
    assert told[0] == {"time": 1000.0, "event": "message", "text": "hello"}
    assert [(t["event"], t.get("style"), t.get("state")) for t in told[1:]] == [
        ("style", "a", "running"),
        ("style", "b", "waiting"),
        ("style", "a", "running"),
        ("style", "b", "failed"),
        ("progress", None, None),
    ]
    a = told[3]
    assert (a["slot"], a["iteration"], a["of"], a["losses"]["total"]) == (0, 5, 10, 2.0)
    assert a["eta_seconds"] == 5.0
    assert told[4]["reason"] == "x.png: no such file" and told[4]["kind"] == "image"
    counted = {k: told[5][k] for k in ("waiting", "running", "done", "failed")}
    assert counted == {"waiting": 0, "running": 1, "done": 0, "failed": 1}


def drawn(snapshot: Snapshot, width: int = 120) -> list[str]:
    """The table's lines as a terminal shows them."""
    from rich.console import Console

    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, height=40, no_color=True)
    with TableDisplay(console) as display:
        display.say("[not markup]")
        display.update(snapshot)
    text = file.getvalue()
    assert "[not markup]" in text
    console = Console(file=io.StringIO(), width=width, height=40)
    with console.capture() as captured:
        console.print(display.table(snapshot))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_the_table_shows_what_trains_what_ended_and_what_waits(now: Clock) -> None:
    now.now += 10
    snapshot = {
        **{f"w{i}": WAITING for i in range(200)},
        "second": running(5, slot=1),
        "first": running(4, slot=0),
        "starting": {"state": "running", "slot": 2},
        "good": DONE,
        "bad": FAILED,
    }
    lines = drawn(snapshot)
    assert len(lines) == 1 + 3 + 2 + 1  # a terminal's worth, however long the catalog
    cells = [line.split() for line in lines]
    assert cells[1][:5] == ["0", "first", "training", "4/10", "2.000"]
    assert cells[1][5:] == ["cross_dom", "1.50", "recon_l1", "0.50", "15", "s"]
    assert cells[2][:2] == ["1", "second"]
    assert cells[3] == ["2", "starting", "starting"]
    assert cells[4] == ["good", "trained", "7", "s"]
    assert cells[5] == ["bad", "failed", "x.png:", "no", "such", "file"]
    assert lines[6].strip().startswith("1 trained, 1 failed, 3 training, 200 waiting")


def test_kinds_of_displays(capsys: pytest.CaptureFixture[str]) -> None:
    # Standard error is no terminal here.
    assert isinstance(make_display("auto"), JsonDisplay)
    make_display("lines").say("to standard error")
    make_display("none").say("to nowhere")
    kept = capsys.readouterr()
    assert (kept.out, kept.err) == ("", "to standard error\n")
    with pytest.raises(UserError, match=r"unknown progress 'tabel': choose one of .*nearest: tabl"):
        make_display("tabel")


def test_times_read_well() -> None:
    told = [clock(s) for s in (None, 0.4, 99.4, 130, 3900)]
    assert told == ["", "0 s", "99 s", "2:10", "1:05:00"]

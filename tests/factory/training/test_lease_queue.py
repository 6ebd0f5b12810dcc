"""The lease queue: order, retries, revoked leases, and recovery from its file."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from factory.core.failures import DIED, DISK, ERROR, IMAGE
from factory.reports.style_states import Done, Failed, Running, Waiting
from factory.training.lease_queue import ASK_AGAIN, MAX_STARTS, RETRIES, LeaseQueue
from osasis.storage import disk_full


def on_disk(path: Path) -> dict[str, Any]:
    states: dict[str, Any] = json.loads(path.read_text())
    return states


def states(queue: LeaseQueue) -> dict[str, str]:
    return {style: s.state for style, s in queue.snapshot().items()}


def running(queue: LeaseQueue, style: str) -> Running:
    state = queue.snapshot()[style]
    assert isinstance(state, Running)
    return state


def test_styles_are_leased_in_catalog_order(tmp_path: Path) -> None:
    queue = LeaseQueue(tmp_path, ["c", "a", "b"])
    assert states(queue) == {"c": "waiting", "a": "waiting", "b": "waiting"}
    assert queue.lease(0) == "c"
    assert queue.lease(1) == "a"
    queue.done("a", 1.0)
    assert queue.lease(1) == "b"
    # Other styles are running: one may fail and be requeued.
    assert queue.lease(2) == ASK_AGAIN
    assert states(queue) == {"c": "running", "a": "done", "b": "running"}
    assert [running(queue, s).slot for s in ("c", "b")] == [0, 1]


def test_a_restarted_slot_gets_the_style_that_it_held(tmp_path: Path) -> None:
    queue = LeaseQueue(tmp_path, ["a", "b", "c"])
    assert (queue.lease(0), queue.lease(1)) == ("a", "b")
    queue.progress("b", 3, 10, {"total": 1.5}, 1)
    assert queue.lease(1) == "b"
    assert queue.lease(0) == "a"
    queue.done("b", 2.0)
    assert queue.lease(1) == "c"


def test_a_style_whose_workers_die_fails_after_its_last_attempt(tmp_path: Path) -> None:
    path = tmp_path / "queue.json"
    queue = LeaseQueue(path.parent, ["a", "b"])
    for _ in range(RETRIES + 1):
        assert queue.lease(0) == "a"
        queue.progress("a", 1, 10, {"total": 0.5}, 0)
    assert queue.lease(0) == "b"
    assert on_disk(path)["a"]["state"] == "failed"
    assert on_disk(path)["a"]["kind"] == DIED
    assert on_disk(path)["a"]["reason"] == "its worker died (out of memory?) (attempt 3)"
    # The attempts of `b` are counted separately, also by a restarted queue.
    assert LeaseQueue(path.parent, ["a", "b"]).lease(0) == "b"
    assert on_disk(path)["b"]["attempts"] == 2


def test_failures_are_retried_by_kind(tmp_path: Path) -> None:
    queue = LeaseQueue(tmp_path, ["a", "b"], retries=1, retry_on=[ERROR])
    assert queue.lease(0) == "a"
    queue.failed("a", "a hiccup", ERROR, 0)
    assert queue.snapshot()["a"] == Waiting(attempts=1, before="a hiccup")
    # A report of a slot that no longer holds the style is ignored.
    assert queue.lease(1) == "a"
    queue.failed("a", "late news", ERROR, 0)
    assert states(queue)["a"] == "running"
    queue.failed("a", "again", ERROR, 1)
    assert queue.snapshot()["a"] == Failed("again (attempt 2)", ERROR, attempts=2)
    assert queue.lease(0) == "b"
    queue.failed("b", "no image", IMAGE, 0)
    assert states(queue)["b"] == "failed"
    assert queue.lease(0) is None


def test_leases_of_lost_nodes_and_ended_slots_go_to_others(tmp_path: Path) -> None:
    queue = LeaseQueue(tmp_path, ["a", "b", "c"])
    assert [queue.lease(i, f"node-{i}") for i in range(3)] == ["a", "b", "c"]
    assert queue.release(["node-1", "node-7"]) == ["b"]
    assert queue.release(["node-1"]) == []
    # Slot 1 restarts on another node and leases its style again: the lost node does not matter.
    assert queue.lease(1, "node-0") == "b"
    assert queue.release(["node-1"]) == []
    assert queue.release([], 2) == ["c"]
    assert queue.lease(0, "node-0") == "a"
    queue.done("a", 1.0)
    assert queue.lease(0, "node-0") == "c"
    assert queue.snapshot()["c"].attempts == 2


def test_a_stopped_slot_gives_its_style_back(tmp_path: Path) -> None:
    queue = LeaseQueue(tmp_path, ["a", "b"])
    assert (queue.lease(0), queue.lease(1)) == ("a", "b")
    assert queue.progress("a", 1, 9, {"total": 1.0}, 0) is False
    queue.give_back("a", 1)  # slot 0 holds it
    queue.give_back("a", 0)
    assert (states(queue)["a"], queue.snapshot()["a"].attempts) == ("waiting", 0)
    assert queue.lease(2) == "a"
    queue.stop()
    assert queue.progress("b", 1, 9, {"total": 1.0}, 1) is True
    queue.give_back("b", 1)
    assert queue.lease(1) is None
    again = LeaseQueue(tmp_path, ["a", "b"])
    assert again.lease(1) == "b" and again.snapshot()["b"].attempts == 1


def test_a_slot_is_given_up_after_too_many_starts_without_a_lease(tmp_path: Path) -> None:
    queue = LeaseQueue(tmp_path, ["a"])
    assert [queue.worker_started(0) for _ in range(MAX_STARTS + 1)] == [True] * MAX_STARTS + [False]
    assert queue.worker_started(1)
    queue.lease(1)
    assert [queue.worker_started(1) for _ in range(MAX_STARTS)] == [True] * MAX_STARTS


def test_a_failed_style_is_not_leased_again(tmp_path: Path) -> None:
    queue = LeaseQueue(tmp_path, ["a", "b"])
    assert queue.lease(0) == "a"
    queue.failed("a", "training diverged", "diverged")
    assert queue.lease(0) == "b"
    queue.done("b", 1.0)
    assert queue.lease(0) is None
    assert queue.snapshot()["a"] == Failed("training diverged", "diverged", attempts=1)


def test_snapshots_have_the_progress(tmp_path: Path) -> None:
    queue = LeaseQueue(tmp_path, ["a"])
    queue.lease(0)
    queue.progress("a", 4, 10, {"total": 0.25, "structure": 0.1}, 0)
    progress = running(queue, "a").progress
    assert progress is not None
    assert (progress.iteration, progress.of, progress.loss) == (4, 10, 0.25)


def test_the_file_is_written_at_every_change_of_state(tmp_path: Path) -> None:
    path = tmp_path / "job" / "queue.json"
    queue = LeaseQueue(path.parent, ["a", "b"])
    assert on_disk(path) == {"a": {"state": "waiting"}, "b": {"state": "waiting"}}
    queue.lease(0)
    now = on_disk(path)["a"]
    assert (now["state"], now["slot"]) == ("running", 0)
    assert now["since"] > 1.7e9
    queue.progress("a", 4, 10, {"total": 0.25}, 0)
    queue.lease(1)
    now = on_disk(path)["a"]
    assert list(now) == (
        ["state", "slot", "node", "attempts", "since", "first", "iteration", "of", "losses", "loss"]
    )
    assert (now["first"][1], now["iteration"], now["losses"]) == (4, 4, {"total": 0.25})
    # A restarted queue continues from the same progress.
    assert LeaseQueue(path.parent, ["a", "b"]).snapshot() == queue.snapshot()
    queue.done("a", 1.5)
    assert on_disk(path)["a"] == {"state": "done", "seconds": 1.5, "attempts": 1}
    queue.failed("b", "no good", IMAGE)
    assert on_disk(path)["b"] == {
        "state": "failed",
        "reason": "no good",
        "kind": IMAGE,
        "attempts": 1,
    }
    assert [p.name for p in path.parent.iterdir()] == ["queue.json"]


def test_a_restarted_queue_keeps_done_failed_and_leased_styles(tmp_path: Path) -> None:
    path, styles = tmp_path / "queue.json", ["a", "b", "c", "d"]
    queue = LeaseQueue(path.parent, styles)
    assert (queue.lease(0), queue.lease(1), queue.lease(2)) == ("a", "b", "c")
    queue.done("a", 1.0)
    queue.failed("b", "no good", IMAGE)
    assert states(queue) == {"a": "done", "b": "failed", "c": "running", "d": "waiting"}

    again = LeaseQueue(path.parent, styles)
    assert again.snapshot()["a"] == Done(1.0, attempts=1)
    assert again.snapshot()["b"] == Failed("no good", IMAGE, attempts=1)
    # Slot 2 still trains c, which no other slot may lease.
    assert again.lease(0) == "d"
    assert again.lease(1) == ASK_AGAIN
    assert again.lease(2) == "c"
    again.progress("c", 1, 2, {"total": 0.5}, 2)
    again.done("c", 3.0)
    assert on_disk(path)["c"] == {"state": "done", "seconds": 3.0, "attempts": 2}


def test_a_restarted_queue_ignores_styles_of_other_jobs(tmp_path: Path) -> None:
    path = tmp_path / "queue.json"
    LeaseQueue(path.parent, ["a", "b"]).done("a", 1.0)
    again = LeaseQueue(path.parent, ["b", "c"])
    assert states(again) == {"b": "waiting", "c": "waiting"}


def test_a_full_disk_ends_the_queue_and_fails_no_style(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = LeaseQueue(tmp_path, ["a", "b"])
    assert queue.lease(0) == "a"
    queue.failed("a", "the disk of home is full (4 kB free)", DISK, 0)
    assert queue.disk_full() == "the disk of home is full (4 kB free)"
    assert queue.lease(0) is None
    assert states(queue) == {"a": "waiting", "b": "waiting"}

    def full(path: Path, data: bytes) -> None:
        raise disk_full(path.parent, errno.ENOSPC)

    monkeypatch.setattr("factory.core.local_store.write_atomic", full)
    own = LeaseQueue(tmp_path / "own", ["a"])
    assert own.disk_full().startswith(f"the disk of {tmp_path / 'own'} is full (")
    assert own.lease(0) is None

"""Claims: one of several jobs acquires a claim, and a dead job's claim can be taken over."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from factory.core.claims import (
    LEASE_SECONDS,
    Claims,
    Holder,
    SupersededError,
    check_claim,
    read_claim,
)
from osasis.storage import sha256_text, write_json

KILLED_JOB = """
import os, signal, sys
from pathlib import Path
from factory.core.claims import Claims
assert Claims(Path(sys.argv[1]), "dead").acquire("oil") is None
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Claims]:
    claims = Claims(tmp_path / "claims", "mine")
    yield claims
    claims.close()


@pytest.fixture
def other(mine: Claims) -> Iterator[Claims]:
    claims = Claims(folder_of(mine), "other")
    yield claims
    claims.close()


def folder_of(claims: Claims) -> Path:
    return Path(claims.store.location)


def write_claim(claims: Claims, holder: Holder, name: str = "oil") -> None:
    """Write the claim of another process."""
    write_json(Path(claims.location(name)), asdict(holder))


def test_one_job_holds_a_claim_until_release(mine: Claims, other: Claims) -> None:
    assert mine.acquire("oil") is None
    assert other.acquire("oil") == mine.holder
    assert other.acquire("ink") is None
    assert mine.acquire("oil") is None  # held already
    assert (mine.held("oil"), other.held("oil"), other.held("ink")) == (True, False, True)
    other.release("oil")  # held by another job: no effect
    assert mine.held("oil")
    mine.release("oil")
    assert read_claim(mine.location("oil")) is None
    assert other.acquire("oil") is None


def test_one_of_many_concurrent_jobs_acquires_the_claim(tmp_path: Path) -> None:
    jobs = [Claims(tmp_path, f"job-{i}") for i in range(8)]
    start = threading.Barrier(len(jobs))
    answers: list[tuple[str, Holder | None]] = []

    def acquire(claims: Claims) -> None:
        start.wait(30)
        answers.append((claims.holder.job, claims.acquire("oil")))

    threads = [threading.Thread(target=acquire, args=(c,)) for c in jobs]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    (winner,) = [job for job, holder in answers if holder is None]
    assert {holder.job for _, holder in answers if holder is not None} == {winner}
    for c in jobs:
        c.close()


def age(*paths: Path | str, seconds: float = LEASE_SECONDS + 1) -> None:
    """Set back when files were last changed."""
    for path in map(Path, paths):
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


def no_locks(monkeypatch: pytest.MonkeyPatch, error: OSError | None) -> None:
    """A file system whose locks fail, or do nothing."""

    def flock(file: object, operation: int) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(fcntl, "flock", flock)


def test_the_claim_of_a_killed_process_is_taken_over_after_its_lease(mine: Claims) -> None:
    ran = subprocess.run([sys.executable, "-c", KILLED_JOB, str(folder_of(mine))], check=False)
    assert ran.returncode == -signal.SIGKILL
    left = read_claim(mine.location("oil"))
    assert left is not None and left.job == "dead"
    assert mine.acquire("oil") == left  # it may run on another machine
    age(mine.location("oil"), folder_of(mine) / "dead.alive")
    assert mine.acquire("oil") is None
    assert read_claim(mine.location("oil")) == mine.holder
    assert not list(folder_of(mine).glob("*.takeover"))


def test_waiting_for_a_dead_holder_takes_one_lease(
    mine: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factory.core.claims.LEASE_SECONDS", 1.0)
    away, told = Holder("away", "token"), []
    write_claim(mine, away)
    (folder_of(mine) / "away.alive").touch()
    started = time.monotonic()
    assert mine.acquire_from_dead("oil", told.append) is None
    assert 0.5 < time.monotonic() - started < 10
    assert told == [away] and mine.held("oil")


def test_a_job_with_late_heartbeats_lives_while_it_holds_its_lock(
    mine: Claims, other: Claims
) -> None:
    assert other.acquire("oil") is None
    age(mine.location("oil"), folder_of(mine) / "other.alive", seconds=3600)
    assert mine.acquire("oil") == other.holder
    assert mine.acquire_from_dead("oil", lambda holder: None) == other.holder


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks"), OSError(errno.ENOSYS, ""),
                                   None])  # fmt: skip
def test_on_a_file_system_without_locks_heartbeats_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError | None
) -> None:
    no_locks(monkeypatch, error)
    monkeypatch.setattr("factory.core.claims.HEARTBEAT_SECONDS", 0.05)
    mine, other = (Claims(tmp_path, name) for name in ("mine", "other"))
    assert other.acquire("oil") is None
    assert mine.acquire("oil") == other.holder
    # A holder that lives is told from a dead one within a heartbeat or two, not after a lease.
    started = time.monotonic()
    assert mine.acquire_from_dead("oil", lambda holder: None) == other.holder
    assert time.monotonic() - started < LEASE_SECONDS / 2
    other._closed.set()  # as if it were killed
    time.sleep(0.2)
    age(mine.location("oil"), tmp_path / "other.alive")
    assert mine.acquire("oil") is None
    assert not other.held("oil")
    with pytest.raises(SupersededError, match="job mine has taken oil over"):
        check_claim(other.location("oil"), "other")
    other.release("oil")  # another job's by now: no effect
    other.close()
    assert mine.held("oil")
    mine.close()
    with pytest.raises(SupersededError, match="is gone"):
        check_claim(other.location("oil"), "mine")


def test_a_wrong_clock_of_a_machine_takes_no_claim(
    mine: Claims, other: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_locks(monkeypatch, None)
    assert other.acquire("oil") is None
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 3600)
    assert mine.acquire("oil") == other.holder


def test_one_of_many_concurrent_jobs_takes_a_dead_claim_over(tmp_path: Path) -> None:
    jobs = [Claims(tmp_path, f"job-{i}") for i in range(8)]
    dead = Holder("dead", "token")
    write_claim(jobs[0], dead)
    # A job that died while it took the claim over.
    marker = tmp_path / f"{sha256_text('oil.claim' + dead.token)[:32]}.takeover"
    write_json(marker, asdict(Holder("dead-too", "token")))
    age(jobs[0].location("oil"), marker)
    start = threading.Barrier(len(jobs))
    answers: list[Holder | None] = []

    def acquire(claims: Claims) -> None:
        start.wait(30)
        answers.append(claims.acquire("oil"))

    threads = [threading.Thread(target=acquire, args=(c,)) for c in jobs]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    (winner,) = [c for c in jobs if c.held("oil")]
    assert len(answers) == 8 and answers.count(None) == 1
    assert {a for a in answers if a is not None} <= {winner.holder, dead}
    for c in jobs:
        c.close()
    assert list(tmp_path.iterdir()) == []


def test_a_running_job_touches_its_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factory.core.claims.HEARTBEAT_SECONDS", 0.05)
    claims, beat = Claims(tmp_path, "mine"), tmp_path / "mine.alive"
    os.utime(beat, (1, 1))
    deadline = time.monotonic() + 10
    while beat.stat().st_mtime < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    claims.close()
    assert not beat.exists()


def test_close_releases_only_the_jobs_own_claims(mine: Claims, other: Claims) -> None:
    assert mine.acquire("oil") is None
    assert other.acquire("ink") is None
    mine.close()
    assert read_claim(mine.location("oil")) is None
    assert read_claim(mine.location("ink")) == other.holder


def test_an_invalid_claim_can_be_acquired_after_a_lease(mine: Claims) -> None:
    for text in ("", "{", "[]", '{"job": "x"}'):
        Path(mine.location("oil")).write_text(text)
        assert read_claim(mine.location("oil")) is None
    assert mine.acquire("oil") == Holder("unknown", "")
    age(mine.location("oil"))
    assert mine.acquire("oil") is None
    assert mine.held("oil")

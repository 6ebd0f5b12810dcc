"""Claims: one of several jobs acquires a claim, and a dead job's claim can be taken over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from factory.core.claims import HEARTBEAT_TIMEOUT_SECONDS, Claims, Holder, read_claim
from osasis.storage import write_json

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
    claims = Claims(mine.folder, "other")
    yield claims
    claims.close()


def write_claim(claims: Claims, holder: Holder, name: str = "oil") -> None:
    """Write the claim of another process."""
    write_json(claims.path(name), asdict(holder))


def test_one_job_holds_a_claim_until_release(mine: Claims, other: Claims) -> None:
    assert mine.acquire("oil") is None
    assert other.acquire("oil") == mine.holder
    assert other.acquire("ink") is None
    assert mine.acquire("oil") is None  # held already
    assert (mine.held("oil"), other.held("oil"), other.held("ink")) == (True, False, True)
    other.release("oil")  # held by another job: no effect
    assert mine.held("oil")
    mine.release("oil")
    assert read_claim(mine.path("oil")) is None
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


def test_the_claim_of_a_killed_process_is_taken_over(mine: Claims) -> None:
    ran = subprocess.run([sys.executable, "-c", KILLED_JOB, str(mine.folder)], check=False)
    assert ran.returncode == -signal.SIGKILL
    left = read_claim(mine.path("oil"))
    assert left is not None and left.job == "dead"
    assert mine.acquire("oil") is None
    assert read_claim(mine.path("oil")) == mine.holder


def test_a_reused_process_id_is_another_process(mine: Claims, other: Claims) -> None:
    write_claim(mine, replace(other.holder, started="1"))
    assert mine.acquire("oil") is None


def test_a_job_of_another_machine_is_dead_without_a_heartbeat(mine: Claims) -> None:
    away = Holder("away", "another-machine", 1, "1")
    beat = mine.folder / "away.alive"
    write_claim(mine, away)
    beat.touch()
    assert mine.acquire("oil") == away
    expired = time.time() - HEARTBEAT_TIMEOUT_SECONDS - 1
    os.utime(beat, (expired, expired))
    assert mine.acquire("oil") is None
    write_claim(mine, away)
    beat.unlink()
    assert mine.acquire("oil") is None


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
    assert read_claim(mine.path("oil")) is None
    assert read_claim(mine.path("ink")) == other.holder


def test_an_invalid_claim_can_be_acquired(mine: Claims) -> None:
    for text in ("", "{", "[]", '{"job": "x"}'):
        mine.path("oil").write_text(text)
        assert read_claim(mine.path("oil")) is None
    assert mine.acquire("oil") is None

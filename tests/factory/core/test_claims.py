"""Claims: of several jobs one gets a style, and a dead job's claim can be taken over."""

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

DYING = """
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


def put(claims: Claims, holder: Holder, name: str = "oil") -> None:
    """A claim as another process would have left it."""
    write_json(claims.path(name), asdict(holder))


def test_a_claim_is_had_by_one_job_until_it_gives_it_back(mine: Claims, other: Claims) -> None:
    assert mine.acquire("oil") is None
    assert other.acquire("oil") == mine.holder
    assert other.acquire("ink") is None
    assert mine.acquire("oil") is None  # ours already
    assert (mine.held("oil"), other.held("oil"), other.held("ink")) == (True, False, True)
    other.release("oil")  # not its own: nothing happens
    assert mine.held("oil")
    mine.release("oil")
    assert read_claim(mine.path("oil")) is None
    assert other.acquire("oil") is None


def test_of_many_jobs_at_once_one_gets_the_claim(tmp_path: Path) -> None:
    jobs = [Claims(tmp_path, f"job-{i}") for i in range(8)]
    start = threading.Barrier(len(jobs))
    told: list[tuple[str, Holder | None]] = []

    def ask(claims: Claims) -> None:
        start.wait(30)
        told.append((claims.holder.job, claims.acquire("oil")))

    threads = [threading.Thread(target=ask, args=(c,)) for c in jobs]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    (winner,) = [job for job, holder in told if holder is None]
    assert {holder.job for _, holder in told if holder is not None} == {winner}
    for c in jobs:
        c.close()


def test_the_claim_of_a_killed_process_is_taken_over(mine: Claims) -> None:
    ran = subprocess.run([sys.executable, "-c", DYING, str(mine.folder)], check=False)
    assert ran.returncode == -signal.SIGKILL
    left = read_claim(mine.path("oil"))
    assert left is not None and left.job == "dead"
    assert mine.acquire("oil") is None
    assert read_claim(mine.path("oil")) == mine.holder


def test_a_process_id_that_came_again_is_another_process(mine: Claims, other: Claims) -> None:
    put(mine, replace(other.holder, started="1"))
    assert mine.acquire("oil") is None


def test_another_machines_job_is_gone_when_its_heart_stopped(mine: Claims) -> None:
    away = Holder("away", "another-machine", 1, "1")
    beat = mine.folder / "away.alive"
    put(mine, away)
    beat.touch()
    assert mine.acquire("oil") == away
    silent = time.time() - HEARTBEAT_TIMEOUT_SECONDS - 1
    os.utime(beat, (silent, silent))
    assert mine.acquire("oil") is None
    put(mine, away)
    beat.unlink()
    assert mine.acquire("oil") is None


def test_a_job_beats_while_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.core.claims.HEARTBEAT_SECONDS", 0.05)
    claims, beat = Claims(tmp_path, "mine"), tmp_path / "mine.alive"
    os.utime(beat, (1, 1))
    deadline = time.monotonic() + 10
    while beat.stat().st_mtime < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    claims.close()
    assert not beat.exists()


def test_closing_gives_back_ones_own_claims_only(mine: Claims, other: Claims) -> None:
    assert mine.acquire("oil") is None
    assert other.acquire("ink") is None
    mine.close()
    assert read_claim(mine.path("oil")) is None
    assert read_claim(mine.path("ink")) == other.holder


def test_a_claim_that_cannot_be_read_is_nobodys(mine: Claims) -> None:
    for text in ("", "{", "[]", '{"job": "x"}'):
        mine.path("oil").write_text(text)
        assert read_claim(mine.path("oil")) is None
    assert mine.acquire("oil") is None

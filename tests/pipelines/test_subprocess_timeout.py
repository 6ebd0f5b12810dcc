"""Timeouts: a worker process that hangs or crashes is replaced for the next call."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from pipelines.subprocess_timeout import CallTimeoutError, WorkerCrashedError, run_with_timeout
from tests.conftest import ROOT, alive


def test_a_call_that_hangs_is_killed_and_leaves_no_process() -> None:
    assert run_with_timeout(None, os.getpid) == os.getpid()
    worker = run_with_timeout(60, os.getpid)
    assert worker != os.getpid()
    assert run_with_timeout(60, os.getpid) == worker  # one process serves many calls
    started = time.monotonic()
    with pytest.raises(CallTimeoutError, match=r"took longer than 0\.2 s"):
        run_with_timeout(0.2, time.sleep, 600)
    assert not alive(worker)
    second = run_with_timeout(60, os.getpid)
    # A C loop that holds the GIL: no thread of that process could stop it.
    with pytest.raises(CallTimeoutError, match=r"took longer than 0\.2 s"):
        run_with_timeout(0.2, pow, 3, 1 << 40)
    assert not alive(second)
    assert time.monotonic() - started < 60
    assert run_with_timeout(60, max, 2, 5) == 5


def test_a_call_that_crashes_ends_only_its_worker_process() -> None:
    with pytest.raises(WorkerCrashedError, match=r"crashed \(SIGABRT\)"):
        run_with_timeout(60, os.abort)
    worker = run_with_timeout(60, os.getpid)
    os.kill(worker, 9)
    with pytest.raises(WorkerCrashedError, match=r"crashed \(SIGKILL\)"):
        run_with_timeout(60, os.getpid)
    assert run_with_timeout(60, max, 2, 5) == 5


def test_a_worker_process_does_not_outlive_its_owner() -> None:
    script = (
        "import os; from pipelines.subprocess_timeout import run_with_timeout;"
        "print(run_with_timeout(60, os.getpid)); os.abort()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert ran.returncode < 0
    deadline = time.monotonic() + 30
    while alive(int(ran.stdout)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(int(ran.stdout))

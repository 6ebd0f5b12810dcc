"""The time limit: a helper that hangs or crashes is gone, and the next piece of work is done."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from pipelines.subprocess_timeout import HelperDiedError, TimeLimitExceededError, run_within_limit
from tests.conftest import ROOT, alive


def test_work_that_hangs_is_ended_and_leaves_nothing_running() -> None:
    assert run_within_limit(None, os.getpid) == os.getpid()
    helper = run_within_limit(60, os.getpid)
    assert helper != os.getpid()
    assert run_within_limit(60, os.getpid) == helper  # one helper serves many photos
    started = time.monotonic()
    with pytest.raises(TimeLimitExceededError, match=r"took longer than 0\.2 s"):
        run_within_limit(0.2, time.sleep, 600)
    assert not alive(helper)
    second = run_within_limit(60, os.getpid)
    # Python itself is stuck in there: no thread of that process could stop it.
    with pytest.raises(TimeLimitExceededError, match=r"took longer than 0\.2 s"):
        run_within_limit(0.2, pow, 3, 1 << 40)
    assert not alive(second)
    assert time.monotonic() - started < 60
    assert run_within_limit(60, max, 2, 5) == 5


def test_work_that_crashes_takes_only_its_helper_along() -> None:
    with pytest.raises(HelperDiedError, match=r"died \(SIGABRT\)"):
        run_within_limit(60, os.abort)
    helper = run_within_limit(60, os.getpid)
    os.kill(helper, 9)
    with pytest.raises(HelperDiedError, match=r"died \(SIGKILL\)"):
        run_within_limit(60, os.getpid)
    assert run_within_limit(60, max, 2, 5) == 5


def test_a_helper_does_not_outlive_its_owner() -> None:
    script = (
        "import os; from pipelines.subprocess_timeout import run_within_limit;"
        "print(run_within_limit(60, os.getpid)); os.abort()"
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

"""The end of the program: exit codes, Ray's processes, Ctrl-C and SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import alive

# A program whose command starts Ray and prints the ids of its processes.
WITH_RAY = """
from factory import cli
from factory.core import ray_cluster

def main():
    ray_cluster.start_ray(1)
    import psutil  # importable after ray

    print(*(p.pid for p in psutil.Process().children(recursive=True)))
    return 3

cli.main = main
cli.run()
"""
# The program with a `text-edit` that never ends.
ENDLESS = """
import sys, time
from factory import cli, text_edits

def wait(*args, **options):
    print("ready", file=sys.stderr, flush=True)
    time.sleep(60)

text_edits.make_text_edit = wait
sys.argv = ["style-factory", "text-edit", "smile", "--source", "a", "--target", "b", "--json"]
cli.run()
"""
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "PYTHONUNBUFFERED")}


def test_exit_code_is_the_commands_and_ray_shuts_down() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WITH_RAY],
        capture_output=True, text=True, check=False, env=ENVIRONMENT,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (3, "")
    # GCS, raylet, and their monitors.
    pids = [int(pid) for pid in ran.stdout.split()]
    assert len(pids) >= 3
    deadline = time.monotonic() + 20
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm(number: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        # A shell that runs the tests in the background makes them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    message = "stopped; to continue, run the same command again"
    assert json.loads(out) == {"error": message}
    assert err == f"error: {message}\n"

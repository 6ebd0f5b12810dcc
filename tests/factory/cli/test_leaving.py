"""The end of the program: exit codes, Ray's processes, Ctrl-C and SIGTERM."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
# The program with a `text-edit` that never ends. Its sleeps are short because a signal that comes
# just before a sleep begins is handled only when the sleep ends.
ENDLESS = """
import sys, time
from factory import cli
from factory.methods import text_edits

def wait(*args, **options):
    print("ready", file=sys.stderr, flush=True)
    while True:
        time.sleep(0.1)

text_edits.make_text_edit = wait
sys.argv = ["style-factory", "text-edit", "smile", "--source", "a", "--target", "b", "--json"]
cli.run()
"""
# A module that is interrupted while it is imported, and one that the command ends with.
INTERRUPTED_IMPORT = """
import os, signal, sys, time

os.kill(os.getpid(), signal.SIGINT)
time.sleep(0.2)
print("imported", file=sys.stderr, flush=True)
"""
IMPORTING = """
import sys, time
from factory import cli
from factory.methods import text_edits

def wait(*args, **options):
    import interrupted_import
    time.sleep(30)

text_edits.make_text_edit = wait
sys.argv = ["style-factory", "text-edit", "smile", "--source", "a", "--target", "b"]
cli.run()
"""
# Ctrl-C before a command has begun: Typer has not read the arguments yet.
EARLY = """
import os, signal, sys
import typer.main
from factory import cli

typer.main.get_command = lambda app: os.kill(os.getpid(), signal.SIGINT)
sys.argv = ["style-factory", "styles", "list"]
cli.run()
"""
# Ctrl-C twice while Ray shuts down; the second comes after the patience where LATE is true.
CLEANING_UP = """
import os, signal, time
from factory import cli
from factory.cli import signals
from factory.core import ray_cluster

stop_ray = ray_cluster.stop_ray

def main():
    ray_cluster.start_ray(1)
    return 3

def interrupted_stop():
    if LATE:
        signals.CLEAN_UP_SECONDS = 0
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGINT)
    stop_ray()
    print("cleaned up")

cli.main, ray_cluster.stop_ray = main, interrupted_stop
cli.run()
"""
STOPPED = "error: stopped; to continue, run the same command again"
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


def run_program(program: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, check=False, timeout=60, env={**ENVIRONMENT, **more},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def test_ctrl_c_before_the_command_begins() -> None:
    ran = run_program(EARLY)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", f"{STOPPED}\n")


def test_ctrl_c_waits_for_the_end_of_an_import(tmp_path: Path) -> None:
    """numpy and torch that are half imported recurse without end or abort the process."""
    (tmp_path / "interrupted_import.py").write_text(INTERRUPTED_IMPORT)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    started = time.monotonic()
    ran = run_program(IMPORTING, PYTHONPATH=path)
    assert (ran.returncode, ran.stderr) == (130, f"imported\n{STOPPED}\n")
    assert time.monotonic() - started < 25


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True])
def test_ctrl_c_during_the_clean_up(late: bool) -> None:
    """Ignored at first, so that Ray's processes and files go; a late one ends the process."""
    folder = tempfile.mkdtemp(dir="/tmp")  # short enough for Ray's sockets
    try:
        ran = run_program(f"LATE = {late}\n{CLEANING_UP}", RAY_TMPDIR=folder)
        if late:
            # A shell shows 130.
            assert (ran.returncode, ran.stdout) == (-signal.SIGINT, "")
        else:
            # What is printed after the command goes to standard error.
            assert (ran.returncode, ran.stdout) == (3, "")
            assert ran.stderr.startswith("cleaning up; after 9 s, Ctrl-C ends this at once\n")
            assert ran.stderr.endswith("cleaned up\n")
            assert not any(Path(folder).iterdir())
    finally:
        shutil.rmtree(folder, ignore_errors=True)

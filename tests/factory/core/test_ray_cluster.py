"""Starting a local Ray and reaching a cluster, each in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from factory.core.local_ray import LOCK, PREFIX, LocalRay
from tests.conftest import alive

CLEAN = {
    k: v
    for k, v in os.environ.items()
    if not k.startswith("RAY_") and k not in ("TMPDIR", "PYTHONUNBUFFERED")
}
# Starts Ray in a thread that ends, uses it, leaves it, and reports what changed meanwhile.
IN_A_THREAD = """
import json, os, signal, sys, threading
import psutil, ray
from factory.core import ray_cluster

handler = lambda *_: None
signal.signal(signal.SIGTERM, handler)
before = dict(os.environ)

@ray.remote
def add(x):
    return x + 1

found = {"answers": [], "folders": []}
for _ in range(2):
    thread = threading.Thread(target=ray_cluster.start_ray)
    thread.start()
    thread.join()
    found["answers"].append(ray.get(add.remote(1)))
    found["cpus"] = ray.cluster_resources()["CPU"]
    processes = psutil.Process().children(recursive=True)
    found["pids"] = [p.pid for p in processes]
    found["folders"] += [a.split("=")[1] for p in processes for a in p.cmdline()
                         if a.startswith("--session-dir=") or a.startswith("--session_dir=")]
    ray_cluster.stop_ray()
found["environment"] = sorted(k for k in {**before, **os.environ}
                              if before.get(k) != os.environ.get(k))
found["handler"] = signal.getsignal(signal.SIGTERM) is handler
print(json.dumps(found))
"""
START = """
from factory.core import ray_cluster
from osasis.errors import UserError
try:
    ray_cluster.start_ray()
    print("started")
except UserError as e:
    print(e)
"""


def run(program: str, timeout: float = 120, **variables: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, check=True, timeout=timeout, env={**CLEAN, **variables},
    )  # fmt: skip
    return ran.stdout.strip()


@pytest.fixture(scope="module")
def in_a_thread() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(IN_A_THREAD, HOME="/dev/null"))
    return found


def test_ray_outlives_the_thread_that_started_it(in_a_thread: dict[str, Any]) -> None:
    assert in_a_thread["answers"] == [2, 2]


def test_the_callers_environment_and_handlers_stay(in_a_thread: dict[str, Any]) -> None:
    # Ray sets these when it is first used, with or without ``ray.init``.
    assert set(in_a_thread["environment"]) <= {"RAY_CLIENT_MODE", "KMP_INIT_AT_FORK"}
    assert in_a_thread["handler"]


def test_nothing_of_a_local_ray_is_left(in_a_thread: dict[str, Any]) -> None:
    assert len(in_a_thread["pids"]) >= 3 and len(set(in_a_thread["folders"])) == 2
    assert not [pid for pid in in_a_thread["pids"] if alive(pid)]
    assert not [f for f in in_a_thread["folders"] if Path(f).exists()]


def test_cpus_of_a_local_ray_are_those_of_the_affinity(in_a_thread: dict[str, Any]) -> None:
    assert in_a_thread["cpus"] == len(os.sched_getaffinity(0))


@pytest.mark.slow
def test_a_long_tmpdir_is_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 100)
    folder.mkdir()
    assert run(START, TMPDIR=str(folder)) == "started"
    assert list(folder.iterdir()) == []


def test_a_long_ray_tmpdir_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 100)
    folder.mkdir()
    said = run(START, RAY_TMPDIR=str(folder))
    assert said.startswith(f"RAY_TMPDIR is {folder}") and "/tmp" in said


def test_folders_of_killed_processes_are_deleted(tmp_path: Path) -> None:
    def age(path: Path, seconds: float) -> Path:
        os.utime(path, (time.time() - seconds,) * 2)
        return path

    def folder(name: str, seconds: float, lock: bool = True) -> Path:
        path = tmp_path / f"{PREFIX}{name}"
        path.mkdir()
        if lock:
            (path / LOCK).touch()
        return age(path, seconds)

    unlocked = folder("unlocked", 999, lock=False)
    abandoned, starting, used = folder("gone", 999), folder("new", 1), folder("used", 999)
    user = subprocess.Popen([sys.executable, "-c", "input()", used], stdin=subprocess.PIPE)
    first = LocalRay.prepare(tmp_path)
    age(first.folder, 999)
    second = LocalRay.prepare(tmp_path)
    user.communicate(b"\n")
    assert not abandoned.exists() and not unlocked.exists() and starting.is_dir() and used.is_dir()
    assert first.folder.is_dir() and second.folder.is_dir()
    first.clean([])
    second.clean([])
    assert sorted(tmp_path.iterdir()) == [starting, used]


@pytest.mark.parametrize(
    ("address", "fragment"),
    [
        ("127.0.0.1:1", "connection refused"),
        ("ray://127.0.0.1:1", "connection refused"),
        ("nonsense", "HOST:PORT"),
        ("127.0.0.1:99999", "port"),
        ("no-such-host.invalid:6379", "no Ray answers there"),
    ],
)
def test_a_dead_cluster_is_named_at_once(address: str, fragment: str) -> None:
    started = time.monotonic()
    said = run(START, timeout=30, RAY_ADDRESS=address)
    assert said.startswith(f"RAY_ADDRESS is {address}") and fragment in said
    assert time.monotonic() - started < 25


def test_a_port_that_does_not_speak_ray() -> None:
    from factory.core.ray_cluster import CLUSTER_SECONDS, PORT_SECONDS

    assert PORT_SECONDS + CLUSTER_SECONDS <= 30
    shorter = "from factory.core import ray_cluster\nray_cluster.CLUSTER_SECONDS = 3.0\n" + START
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        said = run(shorter, timeout=60, RAY_ADDRESS=address)
        assert said.startswith(f"RAY_ADDRESS is {address}: no Ray answers there within 3 s")

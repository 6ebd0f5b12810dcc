"""How the program ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.conftest import alive

PROGRAM = """
import atexit, contextlib, os
from pathlib import Path
from factory import cli, cluster

if {ray}:
    cluster.start_ray(1)
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # others end meanwhile
            pid, _, rest = path.read_text().rpartition(")")
            if int(rest.split()[1]) == os.getpid():
                print(pid.split()[0])
atexit.register(lambda: print("in order", flush=True))
cli.main = lambda: print("said") or 3
cli.run()
"""


def ended(ray: bool) -> list[str]:
    """What a program prints whose command ends with code 3."""
    environment = {
        k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "PYTHONUNBUFFERED")
    }
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(ray=ray)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert ran.returncode == 3, ran.stderr
    return ran.stdout.splitlines()


def test_without_ray_it_ends_in_order() -> None:
    assert ended(ray=False) == ["said", "in order"]


def test_with_a_ray_of_its_own_it_ends_at_once_and_ray_with_it() -> None:
    *processes, said = ended(ray=True)
    assert said == "said"
    # GCS, raylet, and what watches them.
    pids = [int(pid) for pid in processes]
    assert len(pids) >= 3
    deadline = time.monotonic() + 20
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)

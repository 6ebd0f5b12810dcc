"""The Ray that the factory starts for itself."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import contextlib, os
from pathlib import Path
from ray._private import parameter
from factory.cluster import connect

before = parameter.RayParams
connect(1)
assert parameter.RayParams is before
for path in Path("/proc").glob("[0-9]*/stat"):
    with contextlib.suppress(OSError):  # others end meanwhile
        pid, _, rest = path.read_text().rpartition(")")
        if int(rest.split()[1]) == os.getpid():
            print((path.parent / "cmdline").read_text().replace("\\0", " "))
os._exit(0)
"""


def test_a_local_ray_has_no_process_that_nobody_needs() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    programs = ran.stdout
    assert "gcs_server" in programs and "raylet" in programs
    # Sends workers' logs to drivers; asks a cloud for nodes.
    assert "log_monitor.py" not in programs
    assert "autoscaler" not in programs

"""CPUs and memory of the machine, or of its container."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from factory.core.machine import PROCESS_BYTES, cpu_workers, usable_cpus

GIB = 1 << 30


def test_cpus_follow_the_affinity() -> None:
    cpu = min(os.sched_getaffinity(0))
    program = "from factory.core.machine import usable_cpus; print(usable_cpus())"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
    )  # fmt: skip
    assert ran.stdout == "1\n"


def test_cpus_are_not_those_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_cpus() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("cpus", "memory", "expected"),
    [(4, 64 * GIB, 4), (64, 8 * GIB, 4), (64, GIB, 1), (0, 64 * GIB, 1)],
)
def test_workers_fit_into_cpus_and_memory(
    tmp_path: Path, cpus: float, memory: float, expected: int
) -> None:
    (tmp_path / "diffae.safetensors").write_bytes(b"")
    os.truncate(tmp_path / "diffae.safetensors", PROCESS_BYTES // 4)
    assert cpu_workers({"CPU": cpus, "memory": memory}, tmp_path, 4) == expected


def test_without_a_memory_figure_the_cpus_count(tmp_path: Path) -> None:
    assert cpu_workers({"CPU": 3.0}, tmp_path, 4) == 3

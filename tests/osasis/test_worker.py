"""What a computing process is set up with."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import resource, sys, torch
from osasis.worker import prepare_worker
torch.set_num_threads(2)
if sys.argv[1] == "prepared":
    prepare_worker(1)

def many():
    return [torch.ones(1_000_000) for _ in range(20)]  # 4 MB each

for _ in range(3):
    many()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    many()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, torch.get_num_threads())
"""


def faults(how: str) -> tuple[int, int]:
    """Pages that a process had to get while it made tensors, and its threads."""
    command = [sys.executable, "-c", CODE, how]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    pages, threads = ran.stdout.split()
    return int(pages), int(threads)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept() -> None:
    pages, threads = faults("prepared")
    # How many pages a tensor has, the system says: it may give large ones.
    assert 10 * pages < faults("plain")[0] and threads == 1

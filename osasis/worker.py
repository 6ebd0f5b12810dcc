"""Setting up a process that computes on the CPU."""

from __future__ import annotations

import contextlib
import ctypes

import torch

# Parameters of mallopt(3) by number, and the most that it documents for mmap's threshold.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MMAP_MOST = 32 * 1024 * 1024
TRIM_MOST = 2**31 - 1


def prepare_worker(threads: int) -> None:
    """Use so many threads, and keep freed memory for the next tensor.

    By default glibc gives every large tensor's memory back to the system and gets it anew, page by
    page: a tenth of the time of a forward pass (seen with 64 px, float32). The process stays as
    large as it has once been. Does nothing more where the C library is another.
    """
    torch.set_num_threads(threads)
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_MOST)
        libc.mallopt(M_TRIM_THRESHOLD, TRIM_MOST)

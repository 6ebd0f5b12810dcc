"""Arithmetic of the forward passes."""

from __future__ import annotations

import contextlib
from functools import lru_cache

import torch


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """bfloat16 autocast where asked for and where the device computes in it; else plain float32.

    A CPU that only emulates bfloat16 needs many times as long with it: twelve times for a training
    step, seen on one with AVX2.
    """
    if precision == "bfloat16" and (device.type != "cpu" or cpu_has_bfloat16()):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


@lru_cache(maxsize=1)
def cpu_has_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products (AVX-512 BF16, AMX, Arm BF16)."""
    checks = (
        getattr(torch.cpu, "_is_avx512_bf16_supported", None),
        getattr(torch.cpu, "_is_amx_tile_supported", None),
        getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_device_supported", None)
        if torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "SVE"
        else None,
    )
    return any(bool(check()) for check in checks if check is not None)

"""Arithmetic of the forward passes: float32, its products in TF32, or half precision by autocast.

``Precision`` is a setting, ``Arithmetic`` the result of resolving it for a device. Only ``auto``
depends on the device, so stored results record their arithmetic.
"""

from __future__ import annotations

import os
from typing import get_args

import torch

from osasis.choices import Arithmetic as Arithmetic
from osasis.choices import Precision as Precision
from osasis.errors import UserError

ENVIRONMENT = "STYLE_FACTORY_ARITHMETIC"
# Instructions for bfloat16 products, as torch.cpu.get_capabilities names them.
CPU_BFLOAT16 = ("avx512_bf16", "amx_bf16", "sve_bf16")


def resolve(precision: Precision, device: torch.device) -> Arithmetic:
    """The arithmetic of a precision on a device.

    Every precision but ``auto`` and ``tf32`` is taken as it is; a CPU emulates float16, and
    bfloat16 where it lacks instructions for it, which takes many times as long. ``tf32`` is float32
    on a device without TF32. ``auto`` is the value of STYLE_FACTORY_ARITHMETIC if set, else
    bfloat16 where the device has instructions for it, else float32.
    Raises UserError where STYLE_FACTORY_ARITHMETIC has another value.
    """
    if precision == "tf32":
        return "tf32" if has_tf32(device) else "float32"
    if precision != "auto":
        return precision
    if asked := os.environ.get(ENVIRONMENT):
        for arithmetic in get_args(Arithmetic):
            if asked == arithmetic:
                return resolve(arithmetic, device)
        allowed = ", ".join(get_args(Arithmetic))
        raise UserError(f"{ENVIRONMENT} is {asked!r}; set it to one of {allowed}, or unset it")
    return "bfloat16" if has_bfloat16(device) else "float32"


def has_bfloat16(device: torch.device) -> bool:
    """Whether a CPU or GPU has instructions for bfloat16 products; False for other devices."""
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(bool(capabilities.get(name)) for name in CPU_BFLOAT16)
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def has_tf32(device: torch.device) -> bool:
    """Whether a GPU computes float32 products in TF32: NVIDIA's since Ampere."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def autocast(device: torch.device, arithmetic: Arithmetic) -> torch.autocast:
    """Context manager in which forward passes compute in the given arithmetic.

    Also sets how this process computes float32 products on GPUs from now on, in the context and
    outside it, where backward passes and losses are computed: exactly, or rounded to TF32 (10 bits
    instead of 23). PyTorch's default rounds those of convolutions.
    """
    torch.backends.cuda.matmul.allow_tf32 = arithmetic == "tf32"
    torch.backends.cudnn.allow_tf32 = arithmetic == "tf32"
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(arithmetic)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)

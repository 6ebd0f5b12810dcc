"""Devices by name; a GPU that was asked for and is missing is an error."""

from __future__ import annotations

import os
import platform

import torch

from osasis.errors import UserError


def required_device(name: str | torch.device) -> torch.device:
    """The device of this name, such as ``cpu`` or ``cuda``.

    Raises UserError where a GPU was asked for and PyTorch finds none in this process.
    """
    device = torch.device(name)
    if device.type != "cuda" or torch.cuda.is_available():
        return device
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.version.cuda is None:
        found = "it is built without CUDA; install a build with CUDA"
    elif visible == "":
        found = "CUDA_VISIBLE_DEVICES is empty; unset it"
    else:
        found = "check the GPU's driver with nvidia-smi"
        if visible is not None:
            found = f"CUDA_VISIBLE_DEVICES is {visible}; {found}"
    raise UserError(
        f"device {name} was asked for, but PyTorch {torch.__version__} finds no GPU on "
        f"{platform.node()} ({found}); to compute on the CPU, ask for no GPU: hide it from a local "
        "Ray with CUDA_VISIBLE_DEVICES=, or start a cluster's nodes with `ray start --num-gpus 0`"
    )

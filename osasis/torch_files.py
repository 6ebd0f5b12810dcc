"""Reads tensors that other programs saved: safetensors, and torch.save without running code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from osasis.errors import UserError


def read_torch_file(path: Path, kind: str, allowed: Sequence[Any] = ()) -> dict[str, Any]:
    """The dictionary that a safetensors file or a file of torch.save holds, on the CPU.

    kind: what the file should be, for errors, such as "a checkpoint". allowed: types that a file of
    torch.save may hold beside tensors and plain containers. Raises UserError where the file is
    missing, damaged, or holds anything else, which could run code.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(list(allowed)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # the readers' errors depend on the damaged byte
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise UserError(
            f"{path}: cannot be read as {kind} ({reason[:200]}); it is damaged, or holds more than "
            "tensors, which could run code; download it again, or save it as safetensors"
        ) from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: contains a {type(content).__name__}, not a dictionary of tensors; save the "
            "state_dict"
        )
    return content

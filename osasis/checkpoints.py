"""Training checkpoints: tensors and a JSON object in one safetensors file, written atomically."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from osasis.errors import UserError
from osasis.storage import save_tensors

# The key of the file's metadata that holds the JSON.
INFO = "info"


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically."""
    save_tensors(path, tensors, {INFO: json.dumps(info)})


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint: tensors on the CPU and the JSON object.

    Raises FileNotFoundError where the file is missing, UserError where it is not a checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
        info = json.loads(metadata[INFO])
    except (SafetensorError, KeyError, ValueError) as e:
        raise UserError(f"{path}: not a checkpoint ({e}); delete it to start again") from None
    return tensors, info


def adam_tensors(
    adam: torch.optim.Adam, parameters: Iterable[tuple[str, Tensor]]
) -> dict[str, Tensor]:
    """Adam's state by the names of its parameters, for ``load_adam_tensors``."""
    return {
        f"optim.{name}:{slot}": value
        for name, p in parameters
        for slot, value in adam.state.get(p, {}).items()
    }


def load_adam_tensors(
    adam: torch.optim.Adam,
    parameters: Iterable[tuple[str, Tensor]],
    tensors: Mapping[str, Tensor],
) -> None:
    """Restore ``adam_tensors``; parameters without a state stay without one."""
    for name, p in parameters:
        for slot in ("step", "exp_avg", "exp_avg_sq"):
            value = tensors.get(f"optim.{name}:{slot}")
            if value is not None:
                # Adam keeps its moments in the parameter's layout, and its step counter on the
                # CPU, or if fused on the parameter's device.
                if slot != "step":
                    own = torch.empty_like(p).copy_(value)
                else:
                    fused = adam.defaults.get("fused")
                    own = value.to(p.device if fused else value.device, copy=True)
                adam.state[p][slot] = own

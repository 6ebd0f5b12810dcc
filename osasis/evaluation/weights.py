"""Weight files of evaluation's networks."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from osasis.errors import UserError

# Names that a folder of weights may hold, by network.
FILES = {
    "lpips_alex": ("lpips_alex.safetensors",),
    "lpips_vgg": ("lpips_vgg.safetensors",),
    "dino": ("dino_vitbase8_pretrain.safetensors", "dino_vitbase8_pretrain.pth"),
    "inception": ("weights-inception-2015-12-05-6726825d.pth",),
}


def find_weights(folder: Path | None, network: str) -> Path | None:
    """The network's file in a folder of weights; None where it is not there."""
    if folder is None:
        return None
    return next((folder / n for n in FILES[network] if (folder / n).is_file()), None)


def load_weights(path: Path) -> dict[str, Tensor]:
    """A state dict of a safetensors or PyTorch file; no pickled code is run. Raises UserError."""
    try:
        if path.suffix == ".safetensors":
            return {k: v.float() for k, v in load_file(path).items()}
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    except Exception as e:  # both readers raise errors of many types
        raise UserError(f"{path}: cannot be read as weights ({e})") from None

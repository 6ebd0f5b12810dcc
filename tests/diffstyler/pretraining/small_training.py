"""Training of a base of the smallest possible sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffstyler.pretraining.dataset import Pictures
from diffstyler.pretraining.settings import PretrainSettings, Sizes
from diffstyler.pretraining.train_base import BaseTraining
from osasis.images.tensors import from_uint8
from osasis.looks.captions import measure_appearance

SIZES = {
    "image_size": 16,
    "vae_widths": [8, 8],
    "unet_widths": [8, 8, 8, 8],
    "groups": 4,
    "head_width": 4,
    "text_width": 8,
    "text_layers": 1,
}
SETTINGS = {
    "looks": 26,
    "pictures_per_look": 1,
    "vae_steps": 3,
    "vae_batch_size": 2,
    "steps": 4,
    "batch_size": 2,
    "warmup": 2,
    "precision": "float32",
    "samples_every": 1000,
}


def pictures() -> Pictures:
    """Four flat pictures: two photos, a pencil drawing, an oil painting."""
    colours = torch.tensor([[200, 30, 30], [30, 30, 200], [240, 240, 240], [90, 60, 20]])
    images = colours.to(torch.uint8).view(4, 3, 1, 1).expand(4, 3, 16, 16).contiguous()
    measured = tuple(measure_appearance(from_uint8(image)) for image in images)
    return Pictures(images, (None, None, "pencil", "oil"), measured)


def training(folder: Path, *, minutes: float | None = None, **settings: Any) -> BaseTraining:
    made = PretrainSettings.parse(SETTINGS | settings)
    return BaseTraining(folder, pictures(), Sizes.parse(SIZES), made, minutes=minutes)


def weights(folder: Path) -> dict[str, Tensor]:
    """The weights of the base in a run's folder."""
    from safetensors.torch import load_file

    found = {}
    for path in sorted((folder / "base").glob("*/*.safetensors")):
        found |= {f"{path.parent.name}.{k}": v for k, v in load_file(path).items()}
    return found

"""Pictures as tensors, and back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from osasis.images.decoding import load_image
from osasis.images.geometry import fit_square

if TYPE_CHECKING:
    import torch


def image_to_tensor(image: Image.Image) -> torch.Tensor:
    """A picture (H, W) as float32 (3, H, W) in [-1, 1], RGB, on the CPU."""
    import torch  # takes seconds to load, and reading needs none of it

    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.permute(2, 0, 1).float().div(127.5).sub(1).contiguous()


def tensor_to_image(tensor: torch.Tensor) -> Image.Image:
    """A tensor (3, H, W) in [-1, 1] as an "RGB" picture; values beyond are clamped.

    Takes any float type and device. Raises ValueError for another shape or for NaN, which has no
    colour and means that a network failed.
    """
    import torch

    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ValueError(f"an image tensor is (3, H, W), not {tuple(tensor.shape)}")
    values = tensor.detach().float().cpu()
    if values.isnan().any():
        raise ValueError("the image tensor holds NaN")
    pixels = values.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def load_square(path: str | os.PathLike[str], size: int, fit: str = "crop") -> torch.Tensor:
    """An image file as float32 (3, size, size) in [-1, 1]. Raises ImageError, UserError."""
    return image_to_tensor(fit_square(load_image(path, target=size), size, fit))

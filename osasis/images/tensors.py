"""Conversion between PIL images and tensors."""

from __future__ import annotations

import os

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from osasis.images.decoding import load_image
from osasis.images.geometry import fit_square


def image_to_tensor(image: Image.Image) -> Tensor:
    """Convert an image to RGB float32 (3, H, W) in [-1, 1] on the CPU."""
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.permute(2, 0, 1).float().div(127.5).sub(1).contiguous()


def tensor_to_image(tensor: Tensor) -> Image.Image:
    """Convert a tensor (3, H, W) in [-1, 1], of any float type and device, to an "RGB" image.

    Values outside [-1, 1] are clamped. Raises ValueError for another shape and for NaN.
    """
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ValueError(f"an image tensor is (3, H, W), not {tuple(tensor.shape)}")
    values = tensor.detach().float().cpu()
    if values.isnan().any():
        raise ValueError("the image tensor contains NaN")
    return Image.fromarray(to_uint8(values).permute(1, 2, 0).contiguous().numpy())


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8 in 0..255; values outside the range are clamped."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """uint8 images in 0..255 as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def resized(images: Tensor, side: int) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] as float32 (B, 3, side, side), by antialiased bicubic."""
    made = F.interpolate(images.float(), size=(side, side), mode="bicubic", antialias=True)
    return made.clamp(-1, 1)


def load_square(source: str | os.PathLike[str] | bytes, size: int, fit: str = "crop") -> Tensor:
    """An image file, by path or as its bytes, as float32 (3, size, size) in [-1, 1].

    Raises ImageError, UserError.
    """
    return image_to_tensor(fit_square(load_image(source, target=size), size, fit))

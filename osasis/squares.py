"""Squares: pictures as the base sees them, and as tensors."""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from osasis.errors import UserError
from osasis.images import load_image

if TYPE_CHECKING:
    import torch

FITS = ("crop", "pad", "resize")


def fit_square(image: Image.Image, size: int, fit: str = "crop") -> Image.Image:
    """Bring a picture to ``size`` x ``size`` pixels; "L" (a mask) stays "L", all else is "RGB".

    ``fit``: "crop" keeps the central square, "pad" the whole picture with its edge pixels
    repeated, "resize" the whole picture stretched. Raises UserError for any other ``fit``.
    """
    if fit not in FITS:
        near = difflib.get_close_matches(str(fit), FITS, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"fit: {fit!r} is not one of {', '.join(FITS)}{hint}")
    if size < 1:
        raise UserError(f"size: {size} pixels; it must be 1 or more")
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    width, height = image.size
    box, inner = (0, 0, width, height), (size, size)
    if fit == "crop":
        # Whole pixels: half a pixel of offset would blur a picture that needs no scaling.
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
    elif fit == "pad":
        scale = size / max(width, height)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    # The gap lets Pillow average whole blocks first: large pictures in a fraction of the time.
    scaled = image.resize(inner, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    if inner != (size, size):
        gaps = [((size - n) // 2, size - n - (size - n) // 2) for n in reversed(inner)]
        pixels = np.asarray(scaled)
        pads = gaps + [(0, 0)] * (pixels.ndim - 2)
        scaled = Image.fromarray(np.pad(pixels, pads, mode="edge"))
    return scaled


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

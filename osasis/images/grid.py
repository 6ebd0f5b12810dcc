"""Grids of images in one PNG."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from osasis.images.decoding import png_bytes
from osasis.images.tensors import tensor_to_image
from osasis.storage import write_atomic


def image_grid(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """Arrange (N, 3, H, W) images in [-1, 1] in rows of ``columns``, on white; (3, h, w)."""
    padded = F.pad(images, (0, gap, 0, gap), value=1.0)
    missing = -len(padded) % columns
    if missing:
        padded = torch.cat([padded, torch.ones_like(padded[:1]).expand(missing, -1, -1, -1)])
    n, c, h, w = padded.shape
    rows = padded.view(n // columns, columns, c, h, w).permute(2, 0, 3, 1, 4)
    return rows.reshape(c, n // columns * h, columns * w)[:, :-gap, :-gap]


def save_image_grid(path: Path, images: Tensor, columns: int) -> None:
    """Write ``image_grid`` as a PNG, atomically."""
    write_atomic(path, png_bytes(tensor_to_image(image_grid(images, columns))))

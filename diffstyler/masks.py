"""Masks at the size of latents and pictures, and composition by masks.

A mask is uint8 (H, W), 255 where the style shows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from osasis.errors import UserError

Size = tuple[int, int]


def hard_mask(mask: Tensor, size: Size) -> Tensor:
    """The published reading: 0 or 1, float32, at (h, w): bilinear without antialiasing, and any
    value above 0 counts once it is rounded to 8 bits.
    """
    small = F.interpolate(mask[None, None].float(), size, mode="bilinear", align_corners=False)
    return (small[0, 0] >= 0.5).float()


def soft_mask(mask: Tensor, size: Size) -> Tensor:
    """Shares in [0, 1], float32, at (h, w): bilinear with antialiasing."""
    small = F.interpolate(
        mask[None, None].float() / 255, size, mode="bilinear", align_corners=False, antialias=True
    )
    return small[0, 0].clamp(0, 1)


def fit_mask(mask: Tensor, size: Size, edges: str, name: str) -> Tensor | None:
    """A mask at (h, w) with ``hard`` or ``soft`` edges; None where it is 1 everywhere.

    name: of the mask, in errors. Raises UserError for a mask that is black at this size.
    """
    fitted = (hard_mask if edges == "hard" else soft_mask)(mask, size)
    if not bool(fitted.any()):
        raise UserError(
            f"mask {name!r} is black at {size[1]}x{size[0]} pixels, the size at which it acts; "
            "make it white, over more than a few pixels, where the style shall show"
        )
    return None if bool((fitted == 1).all()) else fitted


def union(masks: Sequence[Tensor | None]) -> Tensor | None:
    """The share (h, w) that is inside of any mask; None where that is everywhere."""
    outside: Tensor | None = None
    for mask in masks:
        if mask is None:
            return None
        outside = 1 - mask if outside is None else outside * (1 - mask)
    return None if outside is None else 1 - outside


def over(below: Tensor, above: Tensor, mask: Tensor | None, cover: float = 1.0) -> Tensor:
    """``above`` laid over ``below`` (..., h, w), where the mask (h, w) is set; None: everywhere.

    cover: share of ``above`` where the mask is 1.
    """
    if mask is None:
        return above if cover == 1 else torch.lerp(below, above, cover)
    # lerp is exact at shares of 0 and 1.
    return torch.lerp(below, above, mask.to(above) * cover)

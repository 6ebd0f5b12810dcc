"""Procedural looks: functions that turn a photo into a painting, drawing or print.

They produce the training data of the guide and of the small perceptual net, and the style images
of the demo. A look's parameters depend on the seed only, so that a look and a seed give every photo
the same style.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from osasis.errors import UserError, did_you_mean
from osasis.looks import painting, printing
from osasis.looks.image_ops import SeededRandom
from osasis.seeds import derived_seed

Painter = Callable[[Tensor, SeededRandom], Tensor]

LOOKS: dict[str, Painter] = {
    "oil": painting.oil,
    "impasto": painting.impasto,
    "watercolour": painting.watercolour,
    "gouache": painting.gouache,
    "pastel": painting.pastel,
    "pointillism": painting.pointillism,
    "mosaic": painting.mosaic,
    "stained-glass": painting.stained_glass,
    "tapestry": painting.tapestry,
    "charcoal": painting.charcoal,
    "pencil": painting.pencil,
    "hatching": painting.hatching,
    "chalk": painting.chalk,
    "ink": printing.ink,
    "pen": printing.pen,
    "engraving": printing.engraving,
    "woodcut": printing.woodcut,
    "halftone": printing.halftone,
    "sepia": printing.sepia,
    "silver": printing.silver,
    "cyanotype": printing.cyanotype,
    "posterised": printing.posterised,
    "pop": printing.pop,
    "risograph": printing.risograph,
    "blueprint": printing.blueprint,
    "neon": printing.neon,
}

# Smaller photos are upsampled before painting, because lines are finer than their pixels.
PAINT_SIDE = 128


def paint(photo: Tensor, look: str, seed: int) -> Tensor:
    """Paint a photo (3, H, W) in [-1, 1], H and W at least 16. Returns the same shape and range.

    Equal arguments give equal images. Raises UserError for an unknown look, ValueError for another
    shape.
    """
    if look not in LOOKS:
        raise UserError(
            f"unknown look {look!r}{did_you_mean(look, LOOKS)}: choose one of {', '.join(LOOKS)}"
        )
    if photo.dim() != 3 or photo.shape[0] != 3 or min(photo.shape[1:]) < 16:
        raise ValueError(f"photo must be (3, H, W), sides of 16 or more, not {tuple(photo.shape)}")
    h, w = photo.shape[1:]
    x = (photo.detach().float().cpu() / 2 + 0.5).clamp(0, 1)
    factor = -(-PAINT_SIDE // min(h, w))
    if factor > 1:
        x = F.interpolate(x[None], (h * factor, w * factor), mode="bicubic")[0].clamp(0, 1)
    picture = LOOKS[look](x, SeededRandom(derived_seed(seed, f"look {look}"))).clamp(0, 1)
    if factor > 1:
        picture = F.interpolate(picture[None], (h, w), mode="bicubic", antialias=True)[0]
    return (picture.clamp(0, 1) * 2 - 1).contiguous()

"""Transparency of photos: the picture that is stylized, and the alpha channel of the result.

A base knows opaque pictures only. Transparent pixels get the colours of the opaque pixels around
them, so that neither a background colour nor the hidden colours of a file tint the edges.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

# Largest side, in pixels, of the copy whose colours are extended.
GROUND_SIDE = 512


def separate_alpha(image: Image.Image, keep: bool) -> tuple[Image.Image, Image.Image | None]:
    """A picture without transparency ("RGB") and, with ``keep``, its alpha channel ("L").

    The alpha channel is None for an image without transparency, which is returned unchanged. With
    ``keep``, transparent pixels are composited over the extended colours of the opaque ones, else
    over white.
    """
    if image.mode != "RGBA":
        return image, None
    alpha = image.getchannel("A")
    ground = _extended_colours(image) if keep else Image.new("RGB", image.size, "white")
    ground.paste(image.convert("RGB"), mask=alpha)
    return ground, alpha if keep else None


def _extended_colours(image: Image.Image) -> Image.Image:
    """The colours of the opaque pixels, extended smoothly over the rest; white if there are none.

    Push-pull interpolation (Gortler et al.: "The Lumigraph", SIGGRAPH 1996, section 3.4).
    """
    factor = -(-max(image.size) // GROUND_SIDE)
    small = image.reduce(factor) if factor > 1 else image
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).float().div(255)[None]
    weight = pixels[:, 3:]
    if not bool(weight.any()):
        return Image.new("RGB", image.size, "white")
    colours = _pull(pixels[:, :3] * weight, weight)[0].clamp(0, 1).mul(255).round()
    ground = Image.fromarray(colours.to(torch.uint8).permute(1, 2, 0).contiguous().numpy())
    return ground if factor == 1 else ground.resize(image.size, Image.Resampling.BILINEAR)


def _pull(colours: Tensor, weight: Tensor) -> Tensor:
    """Fill pixels of low weight from the coarser levels.

    colours: (1, 3, h, w), multiplied by their weight (1, 1, h, w) in [0, 1].
    """
    height, width = weight.shape[2:]
    if height == width == 1:
        return colours / weight
    halved = F.avg_pool2d(
        torch.cat([colours, weight], 1), 2, ceil_mode=True, count_include_pad=False
    )
    # One opaque pixel of four gives the coarser pixel its full weight.
    share = halved[:, 3:]
    halved = halved * ((4 * share).clamp(max=1) / share.clamp_min(1e-12))
    coarse = _pull(halved[:, :3], halved[:, 3:])
    around = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return colours + (1 - weight) * around

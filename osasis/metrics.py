"""Metrics of a trained style, computed with the base's guide and perceptual net."""

from __future__ import annotations

import torch
from torch import Tensor

from osasis.bundles.base import Base
from osasis.losses import edge_loss

# Keys of ``style_metrics``.
METRICS = ("style_distance", "direction", "edges", "lpips")


@torch.no_grad()
def style_metrics(
    base: Base, photos: Tensor, stylized: Tensor, style_image: Tensor, counterpart: Tensor
) -> dict[str, float]:
    """Means over photos. photos, stylized: (B, 3, H, W); style_image, counterpart: (1, 3, H, W).

    style_distance: guide distance to the style image, relative to that of the photo (0: equal to
    the style image, 1: no change). direction: cosine between photo -> stylized and
    counterpart -> style image. edges: 1 - cosine of lightness gradients between photo and
    stylized. lpips: perceptual distance between photo and stylized.
    """
    guide = base.guide.embed
    before, after = guide(photos), guide(stylized)
    target, start = guide(style_image), guide(counterpart)
    near = (after - target).norm(dim=-1) / (before - target).norm(dim=-1).clamp_min(1e-8)
    cosine = torch.cosine_similarity(after - before, target - start, dim=-1)
    lpips = torch.cat(
        [base.perceptual(p[None], s[None]) for p, s in zip(photos, stylized, strict=True)]
    )
    return {
        "style_distance": float(near.mean()),
        "direction": float(cosine.mean()),
        "edges": float(edge_loss(stylized, photos)),
        "lpips": float(lpips.mean()),
    }

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
    base: Base,
    photos: Tensor,
    stylized: Tensor,
    style_image: Tensor,
    counterpart: Tensor | None,
) -> dict[str, float]:
    """Means over photos. photos, stylized: (B, 3, H, W); style_image, counterpart: (1, 3, H, W).

    style_distance: guide distance to the style image, relative to that of the photo (0: equal to
    the style image, 1: no change). direction: cosine between photo -> stylized and
    counterpart -> style image. edges: 1 - cosine of lightness gradients between photo and
    stylized. lpips: perceptual distance between photo and stylized. Without a counterpart, there is
    no direction.
    """
    guide = base.guide.embed
    before, after = guide(photos), guide(stylized)
    target = guide(style_image)
    near = (after - target).norm(dim=-1) / (before - target).norm(dim=-1).clamp_min(1e-8)
    lpips = torch.cat(
        [base.perceptual(p[None], s[None]) for p, s in zip(photos, stylized, strict=True)]
    )
    found = {"style_distance": float(near.mean())}
    if counterpart is not None:
        change = target - guide(counterpart)
        found["direction"] = float(torch.cosine_similarity(after - before, change, dim=-1).mean())
    return found | {
        "edges": float(edge_loss(stylized, photos)),
        "lpips": float(lpips.mean()),
    }

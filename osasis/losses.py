"""The losses of training one style (OSASIS, Sec. 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from osasis.guides.guide import Guide, group_weights
from osasis.guides.perceptual import PerceptualNet
from osasis.settings import TrainSettings

# Columns of a style's training curve, in order; the total is last.
LOSS_NAMES = (
    "cross_dom",
    "in_dom",
    "recon_clip",
    "recon_l1",
    "recon_lpips",
    "style_match",
    "structure",
    "total",
)


def directional_loss(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """1 - cos between two sets of embedding differences (StyleGAN-NADA, Eq. 2).

    a, b: (B, G, D), either may have B = 1. Returns the mean over batch and groups; weights (G,),
    adding up to 1, where groups do not count alike.
    """
    return _mean_of_groups(1 - F.cosine_similarity(a, b, dim=-1), weights)


def _mean_of_groups(x: Tensor, weights: Tensor | None) -> Tensor:
    return x.mean() if weights is None else (x * weights).sum(dim=-1).mean()


@dataclass(frozen=True)
class StyleTarget:
    """What stays constant while one style trains.

    image: (1, 3, H, W), the style image. guide_b, guide_a: (1, G, D), embeddings of the style
    image and of its photo counterpart. features: the perceptual net's stages of the image.
    """

    image: Tensor
    guide_b: Tensor
    guide_a: Tensor
    features: list[Tensor]


class StyleLoss:
    """Weighted sum of the losses against one style's constants."""

    def __init__(
        self,
        guide: Guide,
        perceptual: PerceptualNet,
        settings: TrainSettings,
        style_image: Tensor,
        counterpart: Tensor,
    ) -> None:
        self.guide, self.perceptual, self.settings = guide, perceptual, settings
        with torch.no_grad():
            self.target = StyleTarget(
                image=style_image,
                guide_b=self.embed(style_image),
                guide_a=self.embed(counterpart),
                features=perceptual.features(style_image),
            )
        self.group_weights = group_weights(guide, self.target.guide_b)

    def embed(self, images: Tensor) -> Tensor:
        """Guide embeddings as the settings want them. (B, 3, H, W) -> (B, G, D)."""
        published = self.settings.guide_input == "nearest224"
        return self.as_compared(self.guide.embed(images, published_input=published))

    def as_compared(self, embeddings: Tensor) -> Tensor:
        """A guide's embeddings (B, G, D) as the losses compare them: normalised, or as they are."""
        return F.normalize(embeddings, dim=-1) if self.settings.normalise_embeddings else embeddings

    def __call__(
        self, content_x0: Tensor, style_x0: Tensor, photo: Tensor, photo_guide: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and its weighted parts (detached scalars).

        content_x0, photo: (B, 3, H, W), predicted stylization and the photo it came from.
        style_x0: (1, 3, H, W), predicted style image. photo_guide: (B, G, D).
        """
        s, target, weights = self.settings, self.target, self.group_weights
        both = self.embed(torch.cat([content_x0, style_x0]))
        content, style = both[: len(content_x0)], both[len(content_x0) :]
        parts = {
            # Eq. 5: the photo moves as the counterpart moved to the style image.
            "cross_dom": s.cross_domain
            * directional_loss(content - photo_guide, target.guide_b - target.guide_a, weights),
            # Eq. 6: differences within the photo domain persist within the style domain.
            "in_dom": s.in_domain
            * directional_loss(photo_guide - target.guide_a, content - target.guide_b, weights),
            # The published code takes 1 - cos here, the paper L1.
            "recon_clip": s.recon_guide * directional_loss(style, target.guide_b, weights),
            "recon_l1": s.recon_l1 * F.l1_loss(style_x0, target.image),
            "recon_lpips": s.recon_lpips
            * self.perceptual.from_features(
                self.perceptual.features(style_x0), target.features
            ).mean(),
        }
        if s.style_match > 0:
            parts["style_match"] = s.style_match * relative_distance(
                content, target.guide_b, target.guide_a, weights
            )
        if s.structure > 0:
            parts["structure"] = s.structure * edge_loss(content_x0, photo)
        total = torch.stack(list(parts.values())).sum()
        return total, {k: v.detach() for k, v in parts.items()} | {"total": total.detach()}


def relative_distance(
    content: Tensor, style: Tensor, counterpart: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Squared guide distance to the style image, as a share of the counterpart's own.

    content: (B, G, D); style, counterpart: (1, G, D). 0 where the embedding is the style's.
    """
    own = (counterpart - style).pow(2).sum(dim=-1)
    return _mean_of_groups((content - style).pow(2).sum(dim=-1) / own.clamp_min(1e-8), weights)


def edge_loss(a: Tensor, b: Tensor) -> Tensor:
    """1 - cos between the lightness gradients of two batches (B, 3, H, W), at two scales.

    Indifferent to palette, contrast and local brightness; keeps where lines run.
    """
    weights = a.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    la, lb = (a.float() * weights).sum(1, keepdim=True), (b.float() * weights).sum(1, keepdim=True)
    total = la.new_zeros(())
    for _ in range(2):
        total = total + (1 - F.cosine_similarity(_gradients(la), _gradients(lb), dim=1)).mean()
        la, lb = F.avg_pool2d(la, 2), F.avg_pool2d(lb, 2)
    return total / 2


def _gradients(x: Tensor) -> Tensor:
    dx = x[..., :, 1:] - x[..., :, :-1]
    dy = x[..., 1:, :] - x[..., :-1, :]
    return torch.cat([dx.flatten(1), dy.flatten(1)], dim=1)

"""The losses of training one style (OSASIS, Sec. 3.2)."""

from __future__ import annotations

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

    a, b: (B, G, D), where either B may be 1. weights: (G,), sum 1; None weighs all groups equally.
    Returns the mean over batch and groups.
    """
    return _weighted_mean(1 - F.cosine_similarity(a, b, dim=-1), weights)


def _weighted_mean(x: Tensor, weights: Tensor | None) -> Tensor:
    return x.mean() if weights is None else (x * weights).sum(dim=-1).mean()


class StyleLoss:
    """Weighted sum of the losses of one style.

    guide_b, guide_a: (1, G, D), embeddings of the style image and of its photo counterpart.
    """

    def __init__(
        self,
        guide: Guide,
        perceptual: PerceptualNet,
        settings: TrainSettings,
        style_image: Tensor,
        counterpart: Tensor,
    ) -> None:
        """style_image, counterpart: (1, 3, H, W) in [-1, 1]."""
        self.guide, self.perceptual, self.settings = guide, perceptual, settings
        self.style_image = style_image
        with torch.no_grad():
            self.guide_b, self.guide_a = self.embed(style_image), self.embed(counterpart)
            self.style_features = perceptual.features(style_image)
        self.group_weights = group_weights(guide, self.guide_b)

    def embed(self, images: Tensor) -> Tensor:
        """Guide embeddings, prepared by the settings. (B, 3, H, W) -> (B, G, D)."""
        published = self.settings.guide_input == "nearest224"
        return self.prepare_embeddings(self.guide.embed(images, published_input=published))

    def prepare_embeddings(self, embeddings: Tensor) -> Tensor:
        """Normalise guide embeddings (B, G, D) where ``normalise_embeddings`` is set."""
        return F.normalize(embeddings, dim=-1) if self.settings.normalise_embeddings else embeddings

    def __call__(
        self, content_x0: Tensor, style_x0: Tensor, photo: Tensor, photo_guide: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and its weighted parts (detached scalars).

        content_x0, photo: (B, 3, H, W), predicted stylization and its photo.
        style_x0: (1, 3, H, W), predicted style image. photo_guide: (B, G, D).
        """
        s, weights = self.settings, self.group_weights
        guide_a, guide_b = self.guide_a, self.guide_b
        both = self.embed(torch.cat([content_x0, style_x0]))
        content, style = both[: len(content_x0)], both[len(content_x0) :]
        parts = {
            # Eq. 5: photo -> stylization has the direction of counterpart -> style image.
            "cross_dom": s.cross_domain
            * directional_loss(content - photo_guide, guide_b - guide_a, weights),
            # Eq. 6: differences within the photo domain equal those within the style domain.
            "in_dom": s.in_domain
            * directional_loss(photo_guide - guide_a, content - guide_b, weights),
            # The published code takes 1 - cos here, the paper L1.
            "recon_clip": s.recon_guide * directional_loss(style, guide_b, weights),
            "recon_l1": s.recon_l1 * F.l1_loss(style_x0, self.style_image),
            "recon_lpips": s.recon_lpips
            * self.perceptual.from_features(
                self.perceptual.features(style_x0), self.style_features
            ).mean(),
        }
        if s.style_match > 0:
            parts["style_match"] = s.style_match * relative_distance(
                content, guide_b, guide_a, weights
            )
        if s.structure > 0:
            parts["structure"] = s.structure * edge_loss(content_x0, photo)
        total = torch.stack(list(parts.values())).sum()
        return total, {k: v.detach() for k, v in parts.items()} | {"total": total.detach()}


def relative_distance(
    content: Tensor, style: Tensor, counterpart: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Squared guide distance to the style image, relative to the counterpart's distance.

    content: (B, G, D). style, counterpart: (1, G, D). 0 where the embedding equals the style's.
    """
    own = (counterpart - style).pow(2).sum(dim=-1)
    return _weighted_mean((content - style).pow(2).sum(dim=-1) / own.clamp_min(1e-8), weights)


def edge_loss(a: Tensor, b: Tensor) -> Tensor:
    """1 - cos between the lightness gradients of two batches (B, 3, H, W), at two scales.

    Depends on the position of edges, not on palette, contrast or local brightness.
    """
    la, lb = lightness(a.float()), lightness(b.float())
    total = la.new_zeros(())
    for _ in range(2):
        total = total + (1 - F.cosine_similarity(_gradients(la), _gradients(lb), dim=1)).mean()
        la, lb = F.avg_pool2d(la, 2), F.avg_pool2d(lb, 2)
    return total / 2


def lightness(images: Tensor) -> Tensor:
    """Luma (Rec. 601) of RGB images. (B, 3, H, W) -> (B, 1, H, W)."""
    weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)


def _gradients(x: Tensor) -> Tensor:
    dx = x[..., :, 1:] - x[..., :, :-1]
    dy = x[..., 1:, :] - x[..., :-1, :]
    return torch.cat([dx.flatten(1), dy.flatten(1)], dim=1)

"""Palettes: the mean and covariance of an image's colours, and their transfer in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Added to the variances, so that an image of one colour has a finite transfer. Images are in
# [-1, 1]; it is about one level of 8 bits.
MIN_VARIANCE = 1e-4


@dataclass(frozen=True)
class Palette:
    """mean: (3,); covariance: (3, 3), of RGB in [-1, 1]."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, image: Tensor) -> Palette:
        """The palette of an image (3, H, W), taken at 8 bits, as bundles store style images."""
        stored = ((image[None].double() + 1) * 127.5).round() / 127.5 - 1
        mean, covariance = _statistics(stored, torch.ones_like(image[None, :1]))
        return cls(mean[0].float(), covariance[0].float())

    def to(self, device: torch.device | str) -> Palette:
        return Palette(self.mean.to(device), self.covariance.to(device))


def transfer_palette(images: Tensor, palette: Palette, cover: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] with the palette's mean and covariance.

    The linear map that moves colours least (Monge-Kantorovitch; Pitié and Kokaram, CVMP 2007,
    Eq. 4). cover: weight of each pixel in the images' own statistics, broadcast to (B, 1, H, W).
    """
    x = images.double()
    mean, covariance = _statistics(x, cover.expand(len(x), 1, *x.shape[2:]))
    root = _power(covariance, 0.5)
    inverse = _power(covariance, -0.5)
    target = palette.covariance.to(x)
    change = inverse @ _power(root @ target @ root, 0.5) @ inverse
    moved = change @ (x.flatten(2) - mean[..., None]) + palette.mean.to(x)[:, None]
    return moved.view_as(x).clamp(-1, 1).to(images)


def _statistics(images: Tensor, cover: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean (B, 3) and covariance (B, 3, 3) of the colours."""
    x, w = images.flatten(2), cover.to(images).flatten(2)
    w = w / w.sum(dim=2, keepdim=True).clamp_min(1e-8)
    mean = (w * x).sum(dim=2)
    centred = x - mean[..., None]
    covariance = (w * centred) @ centred.transpose(1, 2)
    return mean, covariance + MIN_VARIANCE * torch.eye(3).to(covariance)


def _power(matrices: Tensor, exponent: float) -> Tensor:
    """Power of symmetric positive matrices (B, 3, 3)."""
    values, vectors = torch.linalg.eigh(matrices)
    powers = values.clamp_min(1e-12) ** exponent
    return (vectors * powers[:, None]) @ vectors.transpose(1, 2)

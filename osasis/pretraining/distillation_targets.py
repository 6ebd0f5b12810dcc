"""Targets of the distillation: the teacher's LPIPS distances and its projected feature maps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from osasis.guides.perceptual import PerceptualNet, normalised_features
from osasis.images.tensors import from_uint8
from osasis.networks.small_features import DISTANCE, STAGES


@dataclass(frozen=True)
class PrincipalComponents:
    """Projection of a stage's features: mean (C,), basis (C, K), and their overall deviation."""

    mean: Tensor
    basis: Tensor
    scale: float

    def __call__(self, f: Tensor) -> Tensor:
        flat = f.permute(0, 2, 3, 1) - self.mean
        return (flat @ self.basis / self.scale).permute(0, 3, 1, 2)


def fit_principal_components(maps: Tensor, channels: int) -> PrincipalComponents:
    """Fit the first ``channels`` components of maps (B, C, h, w), padded with zeros beyond C."""
    flat = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1]).double()
    mean = flat.mean(0)
    cov = (flat - mean).T @ (flat - mean) / len(flat)
    values, vectors = torch.linalg.eigh(cov)
    basis = vectors.flip(1)[:, :channels]
    # Fix the arbitrary signs of eigenvectors, so that results do not depend on the machine.
    basis = basis * torch.sign(basis.sum(0)).where(basis.sum(0) != 0, torch.ones(()).double())
    if basis.shape[1] < channels:
        basis = F.pad(basis, (0, channels - basis.shape[1]))
    scale = float(values.clamp_min(0).sum().div(channels).sqrt().clamp_min(1e-8))
    return PrincipalComponents(mean.float(), basis.float(), scale)


def teacher_features(teacher: PerceptualNet, x: Tensor) -> list[Tensor]:
    """LPIPS's normalised, weighted features (five stages), then its plain features (three)."""
    plain = teacher.features(x)
    weighted = []
    for f, lin in zip(plain, teacher.model.lins, strict=True):
        weighted.append(normalised_features(f) * lin.model[-1].weight.clamp_min(0).sqrt())
    return weighted + plain[: len(STAGES)]


@dataclass(frozen=True)
class DistillationTargets:
    """Image pairs with the teacher's features and distances.

    pairs: (N, 2, 3, H, W) uint8. maps: projected features, (N, 2, K, h, w) float16 for each map of
    the student. distances: (N,), LPIPS of the pairs. projections: one for each map.
    """

    pairs: Tensor
    maps: list[Tensor]
    distances: Tensor
    projections: list[PrincipalComponents]


@torch.no_grad()
def compute_targets(
    teacher: PerceptualNet, pairs: Tensor, projections: list[PrincipalComponents] | None = None
) -> DistillationTargets:
    """Run the teacher over all pairs.

    projections: for validation pairs, those of the training targets; None fits them.
    """
    widths = [*DISTANCE, *STAGES]
    if projections is None:
        sample = pairs[:: max(1, len(pairs) // 48)].flatten(0, 1)[:96]
        features = teacher_features(teacher, from_uint8(sample))
        projections = [
            fit_principal_components(f, k) for f, k in zip(features, widths, strict=True)
        ]
    targets: list[list[Tensor]] = [[] for _ in widths]
    distances = []
    for chunk in pairs.split(8):
        x = from_uint8(chunk.flatten(0, 1)).contiguous(memory_format=torch.channels_last)
        features = teacher_features(teacher, x)
        for target, f, project in zip(targets, features, projections, strict=True):
            target.append(project(f).half().unflatten(0, (-1, 2)).contiguous())
        weighted = features[: len(DISTANCE)]
        stages = [(f[::2] - f[1::2]).pow(2).sum(1).mean(dim=(1, 2)) for f in weighted]
        distances.append(torch.stack(stages).sum(0))
    return DistillationTargets(
        pairs, [torch.cat(t) for t in targets], torch.cat(distances), projections
    )

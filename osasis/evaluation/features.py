"""Metrics from the features of a perceptual net: LPIPS, style statistics, self-similarity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from osasis.evaluation.metric import Metric, Pair, Picture
from osasis.guides.perceptual import PerceptualNet

# Stages whose statistics describe a style.
STATISTICS_STAGES = 3
# Self-similarity compares the deepest stage that has at least this many positions.
MIN_POSITIONS = 64


def lpips_metric(net: PerceptualNet, backbone: str) -> Metric:
    """LPIPS between photo and stylization."""

    @torch.no_grad()
    def features(picture: Picture) -> list[Tensor]:
        return net.features(picture.batch)

    def measure(pair: Pair) -> tuple[float]:
        a, b = (p.once(("lpips", backbone), features) for p in (pair.photo, pair.stylized))
        return (float(net.from_features(a, b)),)

    return Metric("lpips", True, backbone, "Zhang et al., CVPR 2018, Eq. 1", measure)


def style_metric(net: PerceptualNet, backbone: str) -> Metric:
    """Distance of feature statistics to the style image, as a share of the photo's own distance.

    0: the statistics of the style image; 1: as far from it as the photo is.
    """

    def measure(pair: Pair) -> tuple[float]:
        photo, stylized, style = (
            p.once(("statistics", backbone), lambda p: feature_statistics(net, p.batch))
            for p in (pair.photo, pair.stylized, pair.style_image)
        )
        shares = [
            float((b - s).norm() / (a - s).norm().clamp_min(1e-8))
            for a, b, s in zip(photo, stylized, style, strict=True)
        ]
        return (sum(shares) / len(shares),)

    source = "statistics: Huang & Belongie, ICCV 2017, Eq. 13; relative to the photo"
    return Metric("style", True, backbone, source, measure)


@torch.no_grad()
def feature_statistics(net: PerceptualNet, images: Tensor) -> list[Tensor]:
    """Mean and standard deviation of each channel of the first stages; per stage (B, 2 C).

    Stages of one position, of very small images, have no deviation and are left out.
    """
    count = min(STATISTICS_STAGES, net.stage_count)
    maps = [f.float().flatten(2) for f in net.stages(images, count)]
    return [torch.cat([f.mean(dim=2), f.std(dim=2)], dim=1) for f in maps if f.shape[2] > 1]


def structure_metric(net: PerceptualNet, backbone: str) -> Metric:
    """Mean squared difference of the feature self-similarities of photo and stylization."""

    @torch.no_grad()
    def similarity(picture: Picture) -> Tensor:
        maps = net.stages(picture.batch, net.stage_count)
        deep = [f for f in maps if f.shape[2] * f.shape[3] >= MIN_POSITIONS] or maps[:1]
        return self_similarity(deep[-1][0].float().flatten(1).T)

    def measure(pair: Pair) -> tuple[float]:
        a, b = (p.once(("structure", backbone), similarity) for p in (pair.photo, pair.stylized))
        return (float(F.mse_loss(a, b)),)

    source = "Shechtman & Irani, CVPR 2007; Tumanyan et al., CVPR 2022, Eq. 4, on this net"
    return Metric("structure", True, backbone, source, measure)


def self_similarity(tokens: Tensor) -> Tensor:
    """Cosine similarity of every two tokens. (N, D) -> (N, N)."""
    unit = F.normalize(tokens, dim=1, eps=1e-8)
    return unit @ unit.T

"""A small convolutional net that approximates LPIPS (VGG16) and VGG16's features.

The trunk has five stages of halved resolution, as VGG16. Two sets of 1x1 convolutions read them:
``distance`` returns maps whose squared differences sum to LPIPS, ``stages`` returns principal
components of VGG16's features. ``osasis.pretraining.distil_perceptual`` trains the net.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (24, 48, 96, 128, 128)
CONVS = (2, 2, 3, 3, 2)
# Channels of the distance maps and of the statistics maps, one number for each stage.
DISTANCE = (24, 32, 48, 48, 48)
STAGES = (32, 48, 64)


class SmallFeatures(nn.Module):
    """The student of the distillation. Images are (B, 3, H, W) in [-1, 1], H and W from 16."""

    # Standard deviations of the teacher's maps; the outputs are multiplied by them.
    distance_scale: Tensor
    stage_scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.ModuleList()
        before = 3
        for width, count in zip(WIDTHS, CONVS, strict=True):
            convs = [
                nn.Conv2d(before if i == 0 else width, width, 3, padding=1) for i in range(count)
            ]
            self.trunk.append(nn.ModuleList(convs))
            before = width
        self.distance_heads = nn.ModuleList(
            nn.Conv2d(w, k, 1) for w, k in zip(WIDTHS, DISTANCE, strict=True)
        )
        self.stage_heads = nn.ModuleList(
            nn.Conv2d(w, k, 1) for w, k in zip(WIDTHS[: len(STAGES)], STAGES, strict=True)
        )
        self.register_buffer("distance_scale", torch.ones(len(DISTANCE)))
        self.register_buffer("stage_scale", torch.ones(len(STAGES)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def run_trunk(self, images: Tensor, count: int = len(WIDTHS)) -> list[Tensor]:
        """The first ``count`` stages of the trunk, finest first."""
        x, out = images, []
        for i, convs in enumerate(list(self.trunk)[:count]):
            x = F.max_pool2d(x, 2) if i else x
            for j, conv in enumerate(cast(nn.ModuleList, convs)):
                y = conv(x)
                # The third convolution is residual, which trains in fewer steps.
                x = F.relu(y + x) if j == 2 else F.relu(y)
            out.append(x)
        return out

    def distance(self, images: Tensor) -> list[Tensor]:
        """Five maps; the distance of two images is the sum of their mean squared differences."""
        trunk = self.run_trunk(images)
        heads = zip(self.distance_heads, trunk, self.distance_scale, strict=True)
        return [head(unit_length(x)) * s for head, x, s in heads]

    def stages(self, images: Tensor, count: int = len(STAGES)) -> list[Tensor]:
        """Up to three stages of features for statistics, finest first."""
        trunk = self.run_trunk(images, count)
        heads = zip(self.stage_heads, trunk, self.stage_scale, strict=False)
        return [head(x) * s for head, x, s in heads]


def unit_length(x: Tensor) -> Tensor:
    """Normalise the features at each position to unit length, as LPIPS does."""
    return x * (x.float().pow(2).sum(dim=1, keepdim=True) + 1e-6).rsqrt()

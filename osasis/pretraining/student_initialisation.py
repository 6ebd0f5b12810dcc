"""Closed-form initialisation of the student: each layer regresses channels of the teacher.

For each layer, in order: choose the channels of the teacher that predict the others best, and fit
the student's convolution to their pre-activations by least squares on the student's own input (as
in channel pruning, He et al., ICCV 2017). This saves minutes of gradient descent.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osasis.guides.perceptual import PerceptualNet
from osasis.networks.small_features import SmallFeatures, unit_length

SAMPLES = 12_000
RIDGE = 1e-4


@torch.no_grad()
def initialise_from_teacher(
    student: SmallFeatures, teacher: PerceptualNet, images: Tensor, targets: list[Tensor]
) -> None:
    """Set all weights of ``student``.

    images: (B, 3, H, W) in [-1, 1]. targets: the outputs of the student's eight heads for them, in
    the scale of DistillationTargets.
    """
    g = torch.Generator().manual_seed(0)
    x, features = images, []
    layers = _pre_activations(teacher, images)
    for i, (convs, wanted) in enumerate(zip(student.trunk, layers, strict=True)):
        stage = cast(nn.ModuleList, convs)
        x = F.max_pool2d(x, 2) if i else x
        # A stage with fewer convolutions than the teacher's ends on the teacher's last.
        wanted = [*wanted[: len(stage) - 1], wanted[-1]]
        for j, (conv, target) in enumerate(zip(stage, wanted, strict=True)):
            kept = target[:, leading_channels(F.relu(target), _width(conv))]
            # The ReLU discards the size of negative values, so they are clamped before the fit.
            kept = kept / kept.std().clamp_min(1e-6)
            goal = kept.clamp_min(-0.5) - (x if j == 2 else 0)
            _fit(cast(nn.Conv2d, conv), x, goal, g)
            x = F.relu(conv(x) + x) if j == 2 else F.relu(conv(x))
        features.append(x)
    stages = [*(unit_length(f) for f in features), *features[: len(student.stage_heads)]]
    heads = [*student.distance_heads, *student.stage_heads]
    for head, f, target in zip(heads, stages, targets, strict=True):
        _fit(cast(nn.Conv2d, head), f, target.float(), g)


def leading_channels(maps: Tensor, count: int) -> Tensor:
    """Indices of ``count`` channels of maps (B, C, h, w), by pivoted Cholesky of the covariance.

    Each choice explains the most of the variance that the earlier choices leave.
    """
    flat = maps.permute(1, 0, 2, 3).flatten(1).double()
    flat = flat - flat.mean(1, keepdim=True)
    left = flat @ flat.T / flat.shape[1]
    chosen: list[int] = []
    for _ in range(count):
        own = left.diagonal().clamp_min(0)
        gain = left.pow(2).sum(1) / own.clamp_min(1e-9)
        gain[chosen] = -1.0
        gain[own < 1e-9] = -0.5
        pick = int(gain.argmax())
        chosen.append(pick)
        left = left - left[:, pick : pick + 1] @ left[pick : pick + 1] / own[pick].clamp_min(1e-9)
    return torch.tensor(chosen)


def _width(conv: Any) -> int:
    return int(conv.out_channels)


def _pre_activations(teacher: PerceptualNet, images: Tensor) -> list[list[Tensor]]:
    """Outputs of VGG's convolutions before their ReLU, by stage."""
    x, stages = teacher.model.scaling_layer(images), []
    for stage in range(1, 6):
        kept = []
        for module in getattr(teacher.model.net, f"slice{stage}"):
            x = module(x)
            if isinstance(module, nn.Conv2d):
                # A copy: the following ReLU may work in place.
                kept.append(x.clone())
        stages.append(kept)
    return stages


def _fit(conv: nn.Conv2d, x: Tensor, goal: Tensor, g: torch.Generator) -> None:
    """Fit a convolution (kernel k, padding k // 2) by least squares on sampled positions."""
    k = conv.kernel_size[0]
    each = max(1, SAMPLES // len(x))
    columns, rows = [], []
    for one, wanted in zip(x.split(1), goal.split(1), strict=True):
        places = torch.randperm(wanted[0, 0].numel(), generator=g)[:each]
        patches = F.unfold(one, k, padding=k // 2)[0]
        columns.append(patches[:, places].T)
        rows.append(wanted[0].flatten(1)[:, places].T)
    a = torch.cat(columns).double()
    a = torch.cat([a, a.new_ones(len(a), 1)], dim=1)
    b = torch.cat(rows).double()
    square = a.T @ a
    # Deep maps have few positions for many weights and need a larger ridge.
    ridge = RIDGE * max(1.0, 20 * a.shape[1] / len(a))
    square.diagonal().add_(ridge * square.diagonal().mean())
    solved = torch.linalg.solve(square, a.T @ b).float()
    conv.weight.copy_(solved[:-1].T.reshape(conv.weight.shape))
    assert conv.bias is not None
    conv.bias.copy_(solved[-1])

"""Closed-form initialisation of the student: each layer regresses channels of the teacher.

For each layer in order, choose the teacher's channels that predict its other channels best, and fit
the student's convolution to their pre-activations by least squares on the student's input (channel
pruning, He et al., ICCV 2017). This saves minutes of gradient descent.
"""

from __future__ import annotations

from typing import cast

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

    images: (B, 3, H, W) in [-1, 1]. targets: desired outputs of the student's eight heads for the
    images, in the scale of DistillationTargets.
    """
    g = torch.Generator().manual_seed(0)
    x, features = images, []
    layers = _pre_activations(teacher, images)
    for i, (convs, outputs) in enumerate(zip(student.trunk, layers, strict=True)):
        stage = cast(nn.ModuleList, convs)
        x = F.max_pool2d(x, 2) if i else x
        # The last convolution of a shorter stage fits the teacher's last.
        outputs = [*outputs[: len(stage) - 1], outputs[-1]]
        for j, (module, output) in enumerate(zip(stage, outputs, strict=True)):
            conv = cast(nn.Conv2d, module)
            target = output[:, leading_channels(F.relu(output), conv.out_channels)]
            target = target / target.std().clamp_min(1e-6)
            # Negative values are clamped before the fit, because the ReLU discards their size.
            _fit(conv, x, target.clamp_min(-0.5) - (x if j == 2 else 0), g)
            x = F.relu(conv(x) + x) if j == 2 else F.relu(conv(x))
        features.append(x)
    stages = [*(unit_length(f) for f in features), *features[: len(student.stage_heads)]]
    heads = [*student.distance_heads, *student.stage_heads]
    for head, f, target in zip(heads, stages, targets, strict=True):
        _fit(cast(nn.Conv2d, head), f, target.float(), g)


def leading_channels(maps: Tensor, count: int) -> Tensor:
    """Indices of ``count`` channels of maps (B, C, h, w), by pivoted Cholesky of the covariance.

    Each channel explains most of the variance that the previously chosen channels leave.
    """
    flat = maps.permute(1, 0, 2, 3).flatten(1).double()
    flat = flat - flat.mean(1, keepdim=True)
    residual = flat @ flat.T / flat.shape[1]
    chosen: list[int] = []
    for _ in range(count):
        variance = residual.diagonal().clamp_min(0)
        gain = residual.pow(2).sum(1) / variance.clamp_min(1e-9)
        gain[chosen] = -1.0
        gain[variance < 1e-9] = -0.5
        pick = int(gain.argmax())
        chosen.append(pick)
        column, row = residual[:, pick : pick + 1], residual[pick : pick + 1]
        residual = residual - column @ row / variance[pick].clamp_min(1e-9)
    return torch.tensor(chosen)


def _pre_activations(teacher: PerceptualNet, images: Tensor) -> list[list[Tensor]]:
    """Outputs of VGG's convolutions before their ReLU, by stage."""
    x, stages = teacher.model.scaling_layer(images), []
    for stage in range(1, 6):
        outputs = []
        for module in getattr(teacher.model.net, f"slice{stage}"):
            x = module(x)
            if isinstance(module, nn.Conv2d):
                # A copy, because the following ReLU may work in place.
                outputs.append(x.clone())
        stages.append(outputs)
    return stages


def _fit(conv: nn.Conv2d, x: Tensor, target: Tensor, g: torch.Generator) -> None:
    """Fit a convolution (kernel k, padding k // 2) by least squares on sampled positions."""
    k = conv.kernel_size[0]
    samples_per_image = max(1, SAMPLES // len(x))
    inputs, outputs = [], []
    for image, output in zip(x.split(1), target.split(1), strict=True):
        positions = torch.randperm(output[0, 0].numel(), generator=g)[:samples_per_image]
        patches = F.unfold(image, k, padding=k // 2)[0]
        inputs.append(patches[:, positions].T)
        outputs.append(output[0].flatten(1)[:, positions].T)
    a = torch.cat(inputs).double()
    a = torch.cat([a, a.new_ones(len(a), 1)], dim=1)
    b = torch.cat(outputs).double()
    gram = a.T @ a
    # Deep maps have few positions for many weights and need a larger ridge.
    ridge = RIDGE * max(1.0, 20 * a.shape[1] / len(a))
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    solution = torch.linalg.solve(gram, a.T @ b).float()
    conv.weight.copy_(solution[:-1].T.reshape(conv.weight.shape))
    assert conv.bias is not None
    conv.bias.copy_(solution[-1])

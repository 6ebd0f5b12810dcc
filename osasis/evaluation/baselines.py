"""Other ways to stylize a photo with one style image, for comparison.

Each takes a photo and a style image (3, H, W) in [-1, 1] and returns the stylized photo, the same
for the same seed whatever else is computed.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from osasis.bundles.base import Base
from osasis.diffusion import ddim_sample, image_schedule, q_sample, steps_to
from osasis.errors import UserError
from osasis.evaluation.lab import from_lab, to_lab
from osasis.evaluation.names import GATYS_WEIGHT, parse_baseline
from osasis.evaluation.weights import FILES, find_weights, weights_digest
from osasis.guides.perceptual import PerceptualNet
from osasis.seeds import derived_generator
from osasis.storage import sha256_text

# Stage of VGG16 whose features keep the content: relu3_3. The paper takes conv4_2 of VGG19; at
# 64 px it has 8 x 8 positions, too few to keep a face.
CONTENT_STAGE = 2
SDEDIT_T0, SDEDIT_STEPS = 0.5, 50


def reinhard(photo: Tensor, style: Tensor) -> Tensor:
    """Colour transfer: mean and deviation of each channel of L*a*b* (Reinhard et al., 2001).

    In CIE L*a*b* instead of the paper's l-alpha-beta.
    """
    source, target = to_lab(photo), to_lab(style)
    moved = (source - source.mean(axis=(0, 1))) / np.maximum(source.std(axis=(0, 1)), 1e-6)
    moved = moved * target.std(axis=(0, 1)) + target.mean(axis=(0, 1))
    moved[..., 0] = moved[..., 0].clip(0, 100)
    return from_lab(moved).to(photo)


def gatys(
    photo: Tensor,
    style: Tensor,
    net: PerceptualNet,
    *,
    iterations: int = 80,
    style_weight: float = GATYS_WEIGHT,
) -> Tensor:
    """Neural style transfer (Gatys et al., CVPR 2016, Eq. 1, 4, 5 and 7), by L-BFGS.

    Starts at the photo, so that no draw takes part. net: LPIPS's VGG16, whose five stages give the
    style, all weighed alike. style_weight: beta / alpha of Eq. 7.
    """
    with torch.no_grad():
        content = net.stages(photo[None], net.stage_count)[CONTENT_STAGE]
        grams = [gram(f) for f in net.stages(style[None], net.stage_count)]
    image = photo[None].clone().requires_grad_(True)
    # Without a line search, an iteration is one pass through the network.
    optimiser = torch.optim.LBFGS([image], max_iter=iterations)

    def loss() -> float:
        optimiser.zero_grad()
        maps = net.stages(image, net.stage_count)
        keep = (maps[CONTENT_STAGE] - content).pow(2).sum() / 2
        stages = [style_error(f, g) for f, g in zip(maps, grams, strict=True)]
        total = keep + style_weight * torch.stack(stages).mean()
        total.backward()
        return float(total.detach())

    with torch.enable_grad():
        optimiser.step(loss)
    return image.detach()[0].clamp(-1, 1)


def gram(features: Tensor) -> Tensor:
    """Inner products of the channels of (1, C, H, W), unscaled (Eq. 3); (C, C)."""
    flat = features[0].flatten(1)
    return flat @ flat.T


def style_error(features: Tensor, target: Tensor) -> Tensor:
    """Squared difference of Gram matrices, divided by 4 C^2 (H W)^2 (Eq. 4)."""
    channels, positions = features.shape[1], features.shape[2] * features.shape[3]
    return (gram(features) - target).pow(2).sum() / (4 * channels**2 * positions**2)


@torch.no_grad()
def sdedit(base: Base, photo: Tensor, style: Tensor, *, seed: int = 0) -> Tensor:
    """SDEdit (Meng et al., ICLR 2022): noise the photo to t0, denoise it with the style's z.

    epsilon_A, which no style has changed, conditioned on the style image's semantic code.
    """
    schedule = image_schedule(SDEDIT_STEPS, "trailing")
    start = steps_to(schedule, SDEDIT_T0) - 1
    noise = torch.randn(photo[None].shape, generator=derived_generator(seed, "sdedit"))
    x = q_sample(schedule, start, photo[None], noise.to(photo))
    z = base.encode_z(style[None])
    return ddim_sample(base.eps_a(z), x, schedule, start=start)[0].clamp(-1, 1)


def baseline_digest(name: str, weights: Path | None, seed: int) -> str:
    """Hash of what a baseline's pictures depend on beside base, photo and style; "" for nothing."""
    method, _ = parse_baseline(name)
    return sha256_text(str(seed))[:12] if method == "sdedit" else weights_digest(weights, method)


class Baselines:
    """Makes stylizations by name, see ``parse_baseline``. Raises UserError without weights."""

    def __init__(self, base: Base, names: tuple[str, ...], weights: Path | None) -> None:
        self.base = base
        self.vgg: PerceptualNet | None = None
        check_baselines(names, weights)
        if any(parse_baseline(name)[0] == "gatys" for name in names):
            path = find_weights(weights, "lpips_vgg")
            self.vgg = PerceptualNet("vgg", path).to(base.device)

    def make(self, name: str, photo: Tensor, style: Tensor, seed: int) -> Tensor:
        method, weight = parse_baseline(name)
        if method == "reinhard":
            return reinhard(photo, style)
        if method == "gatys":
            return gatys(photo, style, cast(PerceptualNet, self.vgg), style_weight=weight)
        return sdedit(self.base, photo, style, seed=seed)


def check_baselines(names: tuple[str, ...], weights: Path | None) -> None:
    """Raise UserError for an unknown baseline, and for one whose weights are missing."""
    methods = [parse_baseline(name)[0] for name in names]
    if "gatys" in methods and find_weights(weights, "lpips_vgg") is None:
        raise UserError(f"baseline gatys needs {FILES['lpips_vgg'][0]} in the folder of --weights")

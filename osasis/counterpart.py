"""The photo counterpart: the photorealistic image that a style image came from (Eq. 9-10)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from osasis.arithmetic import autocast, resolve
from osasis.bundles.base import Base
from osasis.contents import ContentBank, Contents
from osasis.diffusion import (
    ancestral_step,
    ddim_sample,
    image_schedule,
    prior_schedule,
    q_sample,
    steps_to,
)
from osasis.errors import UserError
from osasis.seeds import derived_seed
from osasis.settings import TrainSettings

# Photos whose codes and palette a counterpart borrows.
NEIGHBOURS = 8

# What a counterpart may lean on: contents, in memory or in a bank.
Photos = Contents | ContentBank


def photo_counterpart(
    base: Base, style_image: Tensor, settings: TrainSettings, photos: Photos | None = None
) -> Tensor:
    """The photo counterpart of a style image (1, 3, H, W) in [-1, 1]; the same shape.

    With a photo prior: the image is noised and denoised by the prior, several times, and the
    candidate with the least 10 L1 + LPIPS to the style image is kept (OSASIS, Sec. 3.2).
    Without one: by the DiffAE itself, with z and palette moved towards ``photos``.
    """
    if base.prior is not None:
        return best_candidate(base, prior_candidates(base, style_image, settings), style_image)
    # Compared with its recoloured form: the style image's own palette is what must go.
    candidates, recoloured = diffae_candidates(base, style_image, settings, photos)
    return best_candidate(base, candidates, recoloured)


@torch.no_grad()
def prior_candidates(base: Base, style_image: Tensor, settings: TrainSettings) -> Tensor:
    """Noise to t0 (Eq. 9), then ancestral steps of the prior (Eq. 10). (N, 3, H, W)."""
    assert base.prior is not None
    schedule = prior_schedule(settings.counterpart_steps)
    start = steps_to(schedule, settings.counterpart_t0)
    generator = torch.Generator().manual_seed(derived_seed(settings.seed, "counterpart"))

    def draw() -> Tensor:
        shape = (settings.counterpart_candidates, *style_image.shape[1:])
        return torch.randn(shape, generator=generator).to(style_image)

    # The published code noises to index start, then takes steps start - 1 to 0.
    x = q_sample(schedule, start, style_image, draw())
    with autocast(base.device, resolve(settings.precision, base.device)):
        for i in range(start - 1, -1, -1):
            output = base.prior(x, schedule.timestep(i, x)).float()
            x, _ = ancestral_step(schedule, i, x, output, draw())
    return x.clamp(-1, 1)


@torch.no_grad()
def diffae_candidates(
    base: Base, style_image: Tensor, settings: TrainSettings, photos: Photos | None
) -> tuple[Tensor, Tensor]:
    """Candidates without a prior: the DiffAE denoises towards nearby photos.

    z becomes the mean of the nearest photos' codes, and the image takes their palette before it
    is noised: what the noise leaves of a style image is its large shapes and its colours, and
    with its own colours the direction from counterpart to style would hold no palette.
    Returns (N, 3, H, W) candidates and the recoloured image (1, 3, H, W).
    """
    if photos is None or len(photos) == 0:
        raise UserError(
            f"base {base.name!r} has no photo prior: a photo counterpart needs photos to lean "
            "on (give a folder of photos as contents), or give the counterpart itself"
        )
    near = nearest_photos(base, style_image, photos)
    recoloured = photo_palette(style_image, near.photo)
    schedule = image_schedule(settings.encode_steps, "trailing")
    start = steps_to(schedule, settings.counterpart_t0) - 1
    generator = torch.Generator().manual_seed(derived_seed(settings.seed, "counterpart"))
    shape = (settings.counterpart_candidates, *style_image.shape[1:])
    noise = torch.randn(shape, generator=generator).to(style_image)
    z = near.z.mean(dim=0, keepdim=True).expand(len(noise), -1)
    with autocast(base.device, resolve(settings.precision, base.device)):
        x = q_sample(schedule, start, recoloured, noise)
        candidates = ddim_sample(base.eps_a(z), x, schedule, start=start).float()
    return candidates.clamp(-1, 1), recoloured


def nearest_photos(base: Base, image: Tensor, photos: Photos, count: int = NEIGHBOURS) -> Contents:
    """The photos whose normalised codes are nearest (cosine) to the image's (1, 3, H, W)."""
    z = (base.encode_z(image) - base.z_mean) / base.z_std
    near = F.cosine_similarity(z, (photos.z - base.z_mean) / base.z_std)
    return photos.take(near.topk(min(count, len(photos))).indices)


def photo_palette(image: Tensor, photos: Tensor) -> Tensor:
    """The image with the photos' distribution of lightness and their mean colours, place by place.

    image: (1, 3, H, W); photos: (N, 3, H, W), aligned as the base's photos are. Returns the
    image's shape.
    """
    lightness = quantile_match(_lightness(image), _lightness(photos))
    mean = photos.mean(dim=0, keepdim=True)
    return (lightness + mean - _lightness(mean)).clamp(-1, 1)


def quantile_match(source: Tensor, target: Tensor) -> Tensor:
    """Map values so that their distribution becomes the target's; equal values stay equal."""
    flat = source.flatten().contiguous()
    ordered = flat.sort().values
    # The mid rank of ties: a plain white ground maps to one lightness, not to a ramp.
    low = torch.searchsorted(ordered, flat)
    high = torch.searchsorted(ordered, flat, right=True)
    rank = (low + high - 1) / (2 * max(1, len(flat) - 1))
    reference = target.flatten().sort().values
    return reference[(rank * (len(reference) - 1)).round().long()].view_as(source)


def _lightness(x: Tensor) -> Tensor:
    return (x * x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


@torch.no_grad()
def best_candidate(base: Base, candidates: Tensor, target: Tensor) -> Tensor:
    """The candidate with the least 10 L1 + LPIPS to the target. (1, 3, H, W)."""
    l1 = (candidates - target).abs().mean(dim=(1, 2, 3))
    lpips = torch.stack([base.perceptual(c[None], target).mean() for c in candidates])
    return candidates[(10 * l1 + lpips).argmin()][None]

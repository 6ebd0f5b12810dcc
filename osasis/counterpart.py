"""The photo counterpart: a photorealistic image made from the style image (OSASIS, Eq. 9-10)."""

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
from osasis.losses import lightness
from osasis.seeds import derived_generator
from osasis.settings import TrainSettings

# Number of nearest photos whose mean code and palette a counterpart takes.
NEIGHBOURS = 8

# Photos for a counterpart without a prior: contents in memory or in a bank.
Photos = Contents | ContentBank


def photo_counterpart(
    base: Base, style_image: Tensor, settings: TrainSettings, photos: Photos | None = None
) -> Tensor:
    """The photo counterpart of a style image (1, 3, H, W) in [-1, 1]; the same shape.

    With a photo prior: the prior noises and denoises the image ``counterpart_candidates`` times;
    the candidate with the least 10 L1 + LPIPS to the style image is kept (OSASIS, Sec. 3.2).
    Without a prior: the DiffAE denoises, with z and palette taken from the nearest ``photos``.
    Raises UserError where there is neither a prior nor a photo.
    """
    if base.prior is not None:
        return best_candidate(base, prior_candidates(base, style_image, settings), style_image)
    # The candidates are compared with the recoloured image, because the counterpart needs photo
    # colours.
    candidates, recoloured = diffae_candidates(base, style_image, settings, photos)
    return best_candidate(base, candidates, recoloured)


@torch.no_grad()
def prior_candidates(base: Base, style_image: Tensor, settings: TrainSettings) -> Tensor:
    """Candidates (N, 3, H, W): noised to t0 (Eq. 9), then denoised by the prior (Eq. 10)."""
    assert base.prior is not None
    schedule = prior_schedule(settings.counterpart_steps)
    start = steps_to(schedule, settings.counterpart_t0)
    generator = derived_generator(settings.seed, "counterpart")

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
    """Candidates without a prior: the DiffAE denoises the style image with z of nearby photos.

    z is the mean code of the nearest photos, and the image gets their palette before it is noised.
    Noise preserves large shapes and colours: with the style's own colours, the direction from
    counterpart to style image would not contain its palette.
    Returns (N, 3, H, W) candidates and the recoloured image (1, 3, H, W).
    Raises UserError where there are no photos.
    """
    if photos is None or len(photos) == 0:
        raise UserError(
            f"base {base.name!r} has no photo prior, so a photo counterpart needs photos: give a "
            "folder of photos as contents, or give the counterpart itself"
        )
    near = nearest_photos(base, style_image, photos)
    recoloured = photo_palette(style_image, near.photo)
    schedule = image_schedule(settings.encode_steps, "trailing")
    start = steps_to(schedule, settings.counterpart_t0) - 1
    generator = derived_generator(settings.seed, "counterpart")
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
    """The image with the photos' lightness distribution and their mean colour at each pixel.

    image: (1, 3, H, W). photos: (N, 3, H, W), aligned like the base's photos. Returns
    (1, 3, H, W).
    """
    matched = quantile_match(lightness(image), lightness(photos))
    mean = photos.mean(dim=0, keepdim=True)
    return (matched + mean - lightness(mean)).clamp(-1, 1)


def quantile_match(source: Tensor, target: Tensor) -> Tensor:
    """Map values to the target's distribution by rank (histogram matching); ties stay equal."""
    flat = source.flatten().contiguous()
    ordered = flat.sort().values
    # Ties take their mean rank, so that a uniform background maps to a single lightness.
    low = torch.searchsorted(ordered, flat)
    high = torch.searchsorted(ordered, flat, right=True)
    rank = (low + high - 1) / (2 * max(1, len(flat) - 1))
    reference = target.flatten().sort().values
    return reference[(rank * (len(reference) - 1)).round().long()].view_as(source)


@torch.no_grad()
def best_candidate(base: Base, candidates: Tensor, target: Tensor) -> Tensor:
    """The candidate with the least 10 L1 + LPIPS to the target. (1, 3, H, W)."""
    l1 = (candidates - target).abs().mean(dim=(1, 2, 3))
    lpips = torch.stack([base.perceptual(c[None], target).mean() for c in candidates])
    return candidates[(10 * l1 + lpips).argmin()][None]

"""Evaluation of a base: inversion, stochastic reconstruction, samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from osasis.bundles.base import Base
from osasis.diffusion import ddim_sample, image_schedule, latent_schedule
from osasis.evaluation.frechet import frechet
from osasis.guides.perceptual import PerceptualNet
from osasis.images.grid import save_image_grid
from osasis.images.photo_set import Report
from osasis.sampling import INVERTERS, denoising_walk, sample
from osasis.seeds import derived_generator

CHUNK = 8


@dataclass(frozen=True)
class Evaluation:
    """Quality of a base on photos outside its training set.

    inversion_mse: mean squared error after inversion to t0 and back, images in [-1, 1], by t0.
    inversion_steps: steps of a full schedule.
    stochastic_lpips: mean LPIPS between photos and their reconstructions from z and fresh noise.
    by_photo: LPIPS of each photo; a high value marks low density of the training data near the
    photo (the density measure of the OSASIS paper).
    frechet: Frechet distance between samples and photos in pooled features of the perceptual net,
    or None without samples. Values of different nets are not comparable.
    perceptual: name of the perceptual net.
    """

    inversion_mse: dict[str, float]
    inversion_steps: int
    stochastic_lpips: float
    by_photo: tuple[float, ...]
    frechet: float | None
    samples: int
    perceptual: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def evaluate_base(
    base: Base,
    photos: Tensor,
    *,
    steps: int = 100,
    t0s: Sequence[float] = (0.5, 1.0),
    samples: int = 0,
    perceptual: PerceptualNet | None = None,
    seed: int = 0,
    report: Report = lambda line: None,
) -> tuple[Evaluation, Tensor]:
    """Evaluate on photos (N, 3, H, W) in [-1, 1]. Returns the results and samples (S, 3, H, W).

    steps: of a full schedule, for inversion and generation. samples: number to draw for the Frechet
    distance to the photos; 0 omits it. perceptual: the net for LPIPS and features (default: the
    base's).
    """
    net = perceptual or base.perceptual
    errors = {}
    for t0 in t0s:
        back = reconstruct(base, photos, t0=t0, steps=steps)
        errors[f"{t0:g}"] = float((back - photos).pow(2).mean())
        report(f"inversion to t0 {t0:g} and back: mean squared error {errors[f'{t0:g}']:.6f}")
    made = stochastic_reconstructions(base, photos, steps=steps, seed=seed)
    by_photo = torch.cat([net(a[None], b[None]) for a, b in zip(made, photos, strict=True)])
    report(f"stochastic reconstruction: LPIPS {float(by_photo.mean()):.4f}")
    drawn = torch.empty(0, *photos.shape[1:])
    distance = None
    if samples:
        drawn = draw_samples(base, samples, steps=steps, seed=seed)
        distance = frechet(pooled_features(net, drawn), pooled_features(net, photos))
        report(f"{samples} samples: Frechet distance {distance:.3f}")
    return (
        Evaluation(
            inversion_mse=errors,
            inversion_steps=steps,
            stochastic_lpips=float(by_photo.mean()),
            by_photo=tuple(by_photo.tolist()),
            frechet=distance,
            samples=samples,
            perceptual=net.net,
        ),
        drawn,
    )


def reconstruct(base: Base, photos: Tensor, *, t0: float, steps: int) -> Tensor:
    """Invert photos to t0 (OSASIS, Eq. 7) and generate from there (Eq. 8).

    photos: (N, 3, H, W) in [-1, 1]; returns the same shape. The generation starts at the timestep
    at which the inversion ends.
    """
    back = denoising_walk("trailing", steps, t0)
    out = []
    for x in photos.split(CHUNK):
        z = base.encode_z(x)
        eps = base.eps_a(z)
        x_t = INVERTERS["ddim"](eps, x, "trailing", steps, t0, None)
        out.append(sample(eps, x_t, "ddim", back))
    return torch.cat(out)


def stochastic_reconstructions(base: Base, photos: Tensor, *, steps: int, seed: int) -> Tensor:
    """Generate from fresh noise with the z of photos (N, 3, H, W); returns the same shape."""
    generator = derived_generator(seed, "stochastic")
    schedule = image_schedule(steps, "trailing")
    out = []
    for x in photos.split(CHUNK):
        noise = torch.randn(x.shape, generator=generator).to(x)
        out.append(ddim_sample(base.eps_a(base.encode_z(x)), noise, schedule))
    return torch.cat(out)


@torch.no_grad()
def save_evaluation_grids(
    base: Base, photos: Tensor, samples: Tensor, steps: int, folder: Path
) -> None:
    """Write reconstructions.png (photos, inverted, stochastic) and samples.png."""
    rows = torch.cat(
        [
            photos,
            reconstruct(base, photos, t0=0.5, steps=steps),
            stochastic_reconstructions(base, photos, steps=steps, seed=0),
        ]
    )
    save_image_grid(folder / "reconstructions.png", rows, columns=len(photos))
    if len(samples):
        save_image_grid(folder / "samples.png", samples[:64], columns=8)


@torch.no_grad()
def draw_samples(base: Base, count: int, *, steps: int, seed: int) -> Tensor:
    """Draw samples (count, 3, H, W): the latent DDIM gives z, the image DDIM the image."""
    size, width = base.config.image_size, base.config.z_channels
    generator = derived_generator(seed, "samples")
    out = []
    for _ in range(-(-count // CHUNK)):
        latent = torch.randn(CHUNK, width, generator=generator).to(base.device)
        noise = torch.randn(CHUNK, 3, size, size, generator=generator).to(base.device)
        z = ddim_sample(base.diffae.latent_net, latent, latent_schedule(200), clip=False)
        z = z.float() * base.z_std + base.z_mean
        out.append(ddim_sample(base.eps_a(z), noise, image_schedule(steps, "trailing")).float())
    return torch.cat(out)[:count]


def pooled_features(net: PerceptualNet, images: Tensor) -> Tensor:
    """Channel means of the net's last two stages, (N, D) float64."""
    rows = [
        torch.cat([f.mean(dim=(2, 3)) for f in net.features(x)[-2:]], dim=1)
        for x in images.split(32)
    ]
    return torch.cat(rows).double()

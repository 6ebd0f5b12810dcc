"""Contents: the photos that a style trains on, with all that frozen networks say about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor

from osasis.base import Base, photo_tensor
from osasis.diffusion import (
    Progress,
    ddim_invert,
    ddim_sample,
    image_schedule,
    latent_schedule,
    steps_to,
)
from osasis.precision import autocast
from osasis.seeds import derived_seed
from osasis.settings import TrainSettings
from osasis.storage import save_tensors

# The last photos of a base are kept out of training: styles are shown and measured on them.
HELD_OUT = 6


@dataclass(frozen=True)
class Contents:
    """A batch of contents. photo, x_t0: (B, 3, H, W); z: (B, D)."""

    photo: Tensor
    z: Tensor
    x_t0: Tensor

    def take(self, index: Tensor) -> Contents:
        return Contents(self.photo[index], self.z[index], self.x_t0[index])

    def to(self, device: torch.device) -> Contents:
        return Contents(self.photo.to(device), self.z.to(device), self.x_t0.to(device))

    def __len__(self) -> int:
        return len(self.photo)


class ContentSource(Protocol):
    """Where training draws its contents from."""

    def draw(self, count: int, generator: torch.Generator) -> Contents: ...


@torch.no_grad()
def encode_contents(base: Base, photos: Tensor, settings: TrainSettings) -> Contents:
    """z and x_t0 of photos (B, 3, H, W): inversion with epsilon_A to t0 (Eq. 7)."""
    with autocast(base.device, settings.precision):
        z = base.encode_z(photos).float()
        schedule = image_schedule(settings.encode_steps)
        x_t0 = ddim_invert(base.eps_a(z), photos, schedule, steps_to(schedule, settings.t0))
    return Contents(photos, z, x_t0.float())


@torch.no_grad()
def sample_photos(
    base: Base, settings: TrainSettings, noise: Tensor, latent_noise: Tensor
) -> Tensor:
    """Photos from the base itself: latent DDIM to z, then DDIM with epsilon_A.

    noise: (B, 3, H, W). latent_noise: (B, D). Returns (B, 3, H, W).
    """
    with autocast(base.device, settings.precision):
        z = ddim_sample(
            base.diffae.latent_net, latent_noise, latent_schedule(settings.latent_steps), clip=False
        )
        z = z.float() * base.z_std + base.z_mean
        # The published code samples contents with the walk back's schedule.
        schedule = image_schedule(settings.decode_steps)
        return ddim_sample(base.eps_a(z), noise, schedule).float()


class SampledContents:
    """New contents at every draw, as published."""

    def __init__(self, base: Base, settings: TrainSettings) -> None:
        self.base, self.settings = base, settings

    def draw(self, count: int, generator: torch.Generator) -> Contents:
        size, device = self.base.config.image_size, self.base.device
        noise = torch.randn(count, 3, size, size, generator=generator).to(device)
        latent = torch.randn(count, self.base.config.z_channels, generator=generator).to(device)
        photos = sample_photos(self.base, self.settings, noise, latent)
        return encode_contents(self.base, photos, self.settings)


def build_bank(
    base: Base, settings: TrainSettings, progress: Progress | None = None
) -> ContentBank:
    """The content bank of a base: its own photos where it has any, else sampled ones.

    Deterministic in the base and the settings; encoded in chunks of fixed size, so that each
    content is the same in a bank of any size.
    """
    size, chunk = settings.bank_size, 8
    source = SampledContents(base, settings)
    if base.photos is not None:
        size = min(size, max(1, len(base.photos) - HELD_OUT))
    parts: list[Contents] = []
    for start in range(0, size, chunk):
        if base.photos is not None:
            index = torch.arange(start, start + chunk).clamp_max(len(base.photos) - 1)
            photos = photo_tensor(base.photos[index]).to(base.device)
            parts.append(encode_contents(base, photos, settings))
        else:
            seed = derived_seed(settings.seed, f"bank {start}")
            parts.append(source.draw(chunk, torch.Generator().manual_seed(seed)))
        if progress is not None:
            progress(min(start + chunk, size), size)
    fields = ("photo", "z", "x_t0")
    joined = Contents(*(torch.cat([getattr(p, f) for p in parts])[:size] for f in fields))
    return ContentBank(joined)


class ContentBank:
    """Contents computed once for every style of a base; draws are without replacement."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents

    def draw(self, count: int, generator: torch.Generator) -> Contents:
        order = torch.randperm(len(self.contents), generator=generator)
        # A bank smaller than the batch repeats its contents.
        index = order.repeat(-(-count // len(order)))[:count]
        return self.contents.take(index.to(self.contents.photo.device))

    def save(self, path: Path) -> None:
        c = self.contents
        save_tensors(path, {"photo": c.photo, "z": c.z, "x_t0": c.x_t0})

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> ContentBank:
        t = load_file(path)
        return cls(Contents(t["photo"], t["z"], t["x_t0"]).to(torch.device(device)))

"""Contents: the photos that a style trains on, with all that frozen networks say about them."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor

from osasis.arithmetic import Arithmetic, autocast
from osasis.bundles.base import Base, read_base_info
from osasis.diffusion import (
    Progress,
    ddim_invert,
    ddim_sample,
    image_schedule,
    latent_schedule,
    steps_to,
)
from osasis.errors import UserError
from osasis.images.tensors import from_uint8
from osasis.seeds import derived_seed
from osasis.settings import TrainSettings
from osasis.storage import save_tensors, write_json

# The last photos of a base are kept out of training: styles are shown and measured on them.
HELD_OUT = 6
# Contents that a bank computes in one forward pass.
CHUNK = 8
PARTS = ("photo", "z", "x_t0", "guide")
# A bank serves styles of every precision on machines of every kind.
BANK_ARITHMETIC: Arithmetic = "float32"
# What a bank's folder says of itself, and the folder of banks that come with a base.
BANK_JSON, BROUGHT = "bank.json", "banks"


@dataclass(frozen=True)
class Contents:
    """A batch of contents. photo, x_t0: (B, 3, H, W); z: (B, D); guide: (B, G, E), the guide's
    embeddings of the photos, not normalised."""

    photo: Tensor
    z: Tensor
    x_t0: Tensor
    guide: Tensor

    def take(self, index: Tensor | slice) -> Contents:
        return Contents(**{name: getattr(self, name)[index] for name in PARTS})

    def to(self, device: torch.device) -> Contents:
        return Contents(**{name: getattr(self, name).to(device) for name in PARTS})

    def __len__(self) -> int:
        return len(self.photo)


class ContentSource(Protocol):
    """Where training draws its contents from."""

    def draw(self, count: int, generator: torch.Generator) -> Contents: ...


@torch.no_grad()
def encode_contents(
    base: Base, photos: Tensor, settings: TrainSettings, arithmetic: Arithmetic = BANK_ARITHMETIC
) -> Contents:
    """Encode photos (B, 3, H, W) as contents; x_t0 by inversion to t0 (Eq. 7)."""
    with autocast(base.device, arithmetic):
        z = base.encode_z(photos).float()
        schedule = image_schedule(settings.encode_steps)
        x_t0 = ddim_invert(base.eps_a(z), photos, schedule, steps_to(schedule, settings.t0))
        guide = base.guide.embed(photos, published_input=settings.guide_input == "nearest224")
    return Contents(photos, z, x_t0.float(), guide.float())


@torch.no_grad()
def sample_photos(
    base: Base,
    settings: TrainSettings,
    noise: Tensor,
    latent_noise: Tensor,
    arithmetic: Arithmetic = BANK_ARITHMETIC,
) -> Tensor:
    """Photos from the base itself: latent DDIM to z, then DDIM with epsilon_A.

    noise: (B, 3, H, W). latent_noise: (B, D). Returns (B, 3, H, W).
    """
    with autocast(base.device, arithmetic):
        z = ddim_sample(
            base.diffae.latent_net, latent_noise, latent_schedule(settings.latent_steps), clip=False
        )
        z = z.float() * base.z_std + base.z_mean
        # The published code samples contents with the walk back's schedule.
        schedule = image_schedule(settings.decode_steps)
        return ddim_sample(base.eps_a(z), noise, schedule).float()


class SampledContents:
    """New contents at every draw, as published."""

    def __init__(
        self, base: Base, settings: TrainSettings, arithmetic: Arithmetic = BANK_ARITHMETIC
    ) -> None:
        self.base, self.settings, self.arithmetic = base, settings, arithmetic

    def draw(self, count: int, generator: torch.Generator) -> Contents:
        size, device = self.base.config.image_size, self.base.device
        noise = torch.randn(count, 3, size, size, generator=generator).to(device)
        latent = torch.randn(count, self.base.config.z_channels, generator=generator).to(device)
        photos = sample_photos(self.base, self.settings, noise, latent, self.arithmetic)
        return encode_contents(self.base, photos, self.settings, self.arithmetic)


def bank_chunk(
    base: Base, settings: TrainSettings, start: int, photos: Tensor | None = None
) -> Contents:
    """The ``CHUNK`` contents of a bank from number ``start``.

    Of photos (N, 3, H, W) uint8, the last one repeated beyond their end; else sampled with a
    seed of their own. Deterministic: the same in a bank of any size, computed in any order.
    """
    if photos is not None:
        index = torch.arange(start, start + CHUNK).clamp_max(len(photos) - 1)
        return encode_contents(base, from_uint8(photos[index]).to(base.device), settings)
    seed = derived_seed(settings.seed, f"bank {start}")
    return SampledContents(base, settings).draw(CHUNK, torch.Generator().manual_seed(seed))


def bank_photos(base: Base) -> Tensor | None:
    """The base's photos that a bank may hold: all but those that are held out."""
    if base.photos is None:
        return None
    return base.photos[: max(1, len(base.photos) - HELD_OUT)]


def build_bank(
    base: Base, settings: TrainSettings, progress: Progress | None = None
) -> ContentBank:
    """The content bank of a base: its own photos where it has any, else sampled ones."""
    photos = bank_photos(base)
    size = settings.bank_size if photos is None else min(settings.bank_size, len(photos))
    parts: list[Contents] = []
    for start in range(0, size, CHUNK):
        parts.append(bank_chunk(base, settings, start, photos).take(slice(size - start)))
        if progress is not None:
            progress(min(start + CHUNK, size), size)
    return ContentBank(*parts)


class ContentBank:
    """Contents computed once for every style of a base; draws are without replacement.

    Kept as it was stored, in shards: what is read from files stays on disk until it is drawn
    (memory-mapped), and workers of one machine share it. device: where draws go.
    """

    def __init__(self, *shards: Contents, device: torch.device | str | None = None) -> None:
        self.shards = shards
        self.device = torch.device(device) if device is not None else shards[0].photo.device
        # Codes are small, and a counterpart looks at all of them.
        self.z = torch.cat([s.z for s in shards]).float().to(self.device)
        self._places = [(k, i) for k, s in enumerate(shards) for i in range(len(s))]

    def __len__(self) -> int:
        return len(self._places)

    def take(self, index: Tensor) -> Contents:
        """The contents of these numbers, copied to the device."""
        rows = [self._places[i] for i in index.tolist()]

        def gather(name: str) -> Tensor:
            return torch.stack([getattr(self.shards[k], name)[i] for k, i in rows]).float()

        return Contents(**{name: gather(name) for name in PARTS}).to(self.device)

    @property
    def contents(self) -> Contents:
        """All of them, joined."""
        return self.take(torch.arange(len(self)))

    def draw(self, count: int, generator: torch.Generator) -> Contents:
        order = torch.randperm(len(self), generator=generator)
        # A bank smaller than the batch repeats its contents.
        return self.take(order.repeat(-(-count // len(order)))[:count])

    def save(self, path: Path) -> None:
        """Write all of it as one file."""
        save_contents(path, self.contents)

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> ContentBank:
        """A bank from one file, or from a folder of shards in the order of their names."""
        files = sorted(path.glob("shard-*.safetensors")) if path.is_dir() else [path]
        shards = []
        for file in files:
            t = load_file(file)
            shards.append(Contents(**{name: t[name] for name in PARTS}))
        return cls(*shards, device=device)


def save_contents(path: Path, c: Contents) -> None:
    """Write contents as one safetensors file, atomically."""
    save_tensors(path, {name: getattr(c, name) for name in PARTS})


def ship_bank(bank: Path, base: Path) -> Path:
    """Lay a bank (a folder of shards, with its bank.json) into a base's folder, in float16.

    Nobody who trains on this base with these settings computes it again. Returns the new folder.
    Raises UserError where the bank is none.
    """
    if not (bank / BANK_JSON).is_file() or not any(bank.glob("shard-*.safetensors")):
        raise UserError(f"{bank}: not a content bank (it has no {BANK_JSON} beside its shards)")
    folder = base / BROUGHT / bank.name
    contents = ContentBank.load(bank).contents
    half = {name: getattr(contents, name).half() for name in PARTS}
    save_tensors(folder / "shard-00000.safetensors", half)
    info = json.loads((bank / BANK_JSON).read_text())
    # What it cost is true of the machine that built it.
    kept = {k: v for k, v in info.items() if k not in ("seconds", "draw_seconds")}
    write_json(folder / BANK_JSON, kept)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m osasis.contents", description="Ship a content bank with its base."
    )
    parser.add_argument("bank", type=Path, help="folder below a home's content-banks")
    parser.add_argument("base", type=Path, help="folder of the base")
    args = parser.parse_args()
    try:
        read_base_info(args.base)
        print(ship_bank(args.bank, args.base))
    except UserError as e:
        parser.error(str(e))


if __name__ == "__main__":
    main()

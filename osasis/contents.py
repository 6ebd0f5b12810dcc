"""Contents: the photos that styles train on, with their encodings by the frozen networks."""

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
from osasis.diffusion import ddim_sample, latent_schedule
from osasis.errors import UserError
from osasis.images.tensors import from_uint8
from osasis.sampling import INVERTERS, denoising_walk, sample
from osasis.seeds import derived_generator
from osasis.settings import TrainSettings
from osasis.storage import save_tensors, to_float16, write_json

# The last photos of a base are held out of training, for a style's previews and metrics.
HELD_OUT = 6
# Contents of a bank per forward pass.
CHUNK = 8
PARTS = ("photo", "z", "x_t0", "guide")
# Styles of any precision, trained on any device, share one bank.
BANK_ARITHMETIC: Arithmetic = "float32"
# The metadata file of a bank, and the folder of a base for banks that ship with it.
BANK_JSON, SHIPPED_BANKS = "bank.json", "banks"


@dataclass(frozen=True)
class Contents:
    """A batch of contents.

    photo, x_t0: (B, 3, H, W). z: (B, D). guide: (B, G, E), embeddings of the photos by the guide,
    not normalised.
    """

    photo: Tensor
    z: Tensor
    x_t0: Tensor
    guide: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in PARTS}

    def take(self, index: Tensor | slice) -> Contents:
        return Contents(**{name: t[index] for name, t in self.tensors().items()})

    def to(self, device: torch.device) -> Contents:
        return Contents(**{name: t.to(device) for name, t in self.tensors().items()})

    def __len__(self) -> int:
        return len(self.photo)


class ContentSource(Protocol):
    """Source of the contents of each training iteration."""

    def draw(self, count: int, generator: torch.Generator) -> Contents: ...


@torch.no_grad()
def encode_contents(
    base: Base, photos: Tensor, settings: TrainSettings, arithmetic: Arithmetic = BANK_ARITHMETIC
) -> Contents:
    """Encode photos (B, 3, H, W) as contents; x_t0 by inversion to t0 (Eq. 7)."""
    with autocast(base.device, arithmetic):
        z = base.encode_z(photos).float()
        x_t0 = invert_photos(base, photos, z, settings)
    # In float32, like the losses that compare it.
    guide = base.guide.embed(photos, published_input=settings.guide_input == "nearest224")
    return Contents(photos, z, x_t0, guide)


def invert_photos(base: Base, photos: Tensor, z: Tensor, settings: TrainSettings) -> Tensor:
    """Invert photos (B, 3, H, W) with codes z (B, D) to t0 with epsilon_A (Eq. 7)."""
    s = settings
    invert = INVERTERS[s.encode_solver]
    return invert(base.eps_a(z), photos, s.spacing, s.encode_steps, s.t0, None).float()


@torch.no_grad()
def sample_photos(
    base: Base,
    settings: TrainSettings,
    noise: Tensor,
    latent_noise: Tensor,
    arithmetic: Arithmetic = BANK_ARITHMETIC,
) -> Tensor:
    """Sample photos from the base: latent DDIM to z, then denoising with epsilon_A.

    noise: (B, 3, H, W). latent_noise: (B, D). Returns (B, 3, H, W).
    """
    with autocast(base.device, arithmetic):
        z = ddim_sample(
            base.diffae.latent_net, latent_noise, latent_schedule(settings.latent_steps), clip=False
        )
        z = z.float() * base.z_std + base.z_mean
        # The published code samples contents with the schedule of the denoising steps.
        walk = denoising_walk(settings.spacing, settings.decode_steps, t0=1.0)
        return sample(base.eps_a(z), noise, settings.decode_solver, walk).float()


class SampledContents:
    """Samples new contents at every draw, as published."""

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
    """The ``CHUNK`` contents of a bank from index ``start``.

    photos: (N, 3, H, W) uint8, the last one repeated past the end; None samples photos with a
    seed for each chunk. The result does not depend on the bank's size or the order of the chunks.
    """
    if photos is not None:
        index = torch.arange(start, start + CHUNK).clamp_max(len(photos) - 1)
        return encode_contents(base, from_uint8(photos[index]).to(base.device), settings)
    generator = derived_generator(settings.seed, f"bank {start}")
    return SampledContents(base, settings).draw(CHUNK, generator)


def bank_photos(base: Base) -> Tensor | None:
    """The base's photos without the held-out ones, uint8; None where the base has no photos."""
    if base.photos is None:
        return None
    return base.photos[: max(1, len(base.photos) - HELD_OUT)]


class ContentBank:
    """Contents computed once for every style of a base, drawn without replacement.

    Shards from files are memory-mapped: a content is read from disk when it is drawn, and the
    workers of a machine share the pages. device: of the drawn contents.
    """

    def __init__(self, *shards: Contents, device: torch.device | str | None = None) -> None:
        self.shards = shards
        self.device = torch.device(device) if device is not None else shards[0].photo.device
        # nearest_photos compares all codes, which are small.
        self.z = torch.cat([s.z for s in shards]).float().to(self.device)
        self._rows = [(k, i) for k, s in enumerate(shards) for i in range(len(s))]

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, index: Tensor) -> Contents:
        """The contents at these indices, copied to the device."""
        rows = [self._rows[i] for i in index.tolist()]
        parts = {n: torch.stack([getattr(self.shards[k], n)[i] for k, i in rows]) for n in PARTS}
        return Contents(**{name: part.float() for name, part in parts.items()}).to(self.device)

    @property
    def contents(self) -> Contents:
        """All contents in one batch."""
        return self.take(torch.arange(len(self)))

    def draw(self, count: int, generator: torch.Generator) -> Contents:
        order = torch.randperm(len(self), generator=generator)
        # A bank smaller than the batch repeats its contents.
        return self.take(order.repeat(-(-count // len(order)))[:count])

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> ContentBank:
        """Read a bank from one file, or from the shards in a folder, sorted by name."""
        files = sorted(path.glob("shard-*.safetensors")) if path.is_dir() else [path]
        return cls(*(Contents(**load_file(file)) for file in files), device=device)


def ship_bank(bank: Path, base: Path) -> Path:
    """Copy a content bank into a base's folder in float16, and return the new folder.

    Training on the base with the bank's settings then skips the computation of the bank.
    Raises UserError where ``bank`` lacks bank.json or shards.
    """
    if not (bank / BANK_JSON).is_file() or not any(bank.glob("shard-*.safetensors")):
        raise UserError(f"{bank}: not a content bank (bank.json or the shards are missing)")
    folder = base / SHIPPED_BANKS / bank.name
    contents = ContentBank.load(bank).contents.tensors()
    save_tensors(folder / "shard-00000.safetensors", to_float16(contents))
    info = json.loads((bank / BANK_JSON).read_text())
    # Build times are those of another machine.
    kept = {k: v for k, v in info.items() if k not in ("seconds", "draw_seconds")}
    write_json(folder / BANK_JSON, kept)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m osasis.contents", description="Copy a content bank into its base."
    )
    parser.add_argument("bank", type=Path, help="folder of the bank, in content-banks of the home")
    parser.add_argument("base", type=Path, help="folder of the base")
    args = parser.parse_args()
    try:
        read_base_info(args.base)
        print(ship_bank(args.bank, args.base))
    except UserError as e:
        parser.error(str(e))


if __name__ == "__main__":
    main()

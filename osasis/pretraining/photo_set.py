"""Training photos: a folder held in memory, and batches that depend on the seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from osasis.bundles.base import photo_tensor
from osasis.errors import ImageError, UserError
from osasis.images.decoding import find_images
from osasis.images.tensors import load_square
from osasis.seeds import derived_seed

Report = Callable[[str], None]


@dataclass(frozen=True)
class PhotoSet:
    """Photos as (N, 3, H, W) uint8, and the errors of files that are none."""

    photos: Tensor
    errors: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.photos)

    def stamp(self) -> str:
        """What tells these photos from others (order included)."""
        digest = hashlib.sha256(str(tuple(self.photos.shape)).encode())
        digest.update(self.photos.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def images(self, limit: int | None = None) -> Tensor:
        """The first photos (all of them by default), (N, 3, H, W) in [-1, 1]."""
        return photo_tensor(self.photos[:limit])

    def batch(self, seed: int, iteration: int, size: int) -> Tensor:
        """The photos of one iteration, (size, 3, H, W) in [-1, 1], some of them mirrored.

        Every epoch is a permutation of its own; a batch may span two. Depends on the seed and the
        iteration alone, so a resumed run, or one of several workers, draws the same.
        """
        count = len(self.photos)
        first = iteration * size
        index = [
            int(_permutation(seed, k // count, count)[k % count])
            for k in range(first, first + size)
        ]
        flips = torch.rand(size, generator=_generator(seed, f"flips {iteration}")) < 0.5
        photos = photo_tensor(self.photos[torch.tensor(index)])
        return torch.where(flips.view(-1, 1, 1, 1), photos.flip(3), photos)


def read_photo_set(folder: str | Path, size: int, report: Report = lambda line: None) -> PhotoSet:
    """Every picture below a folder as a square of ``size``. A broken file is left out and named.

    Raises UserError where no picture can be read.
    """
    return decode_photo_set(find_images(folder), size, str(folder), report)


def decode_photo_set(
    sources: Iterable[Path], size: int, name: str, report: Report = lambda line: None
) -> PhotoSet:
    """A photo set of files; ``name`` stands for them in errors. Raises UserError."""
    photos, errors = [], []
    for path in sources:
        try:
            image = load_square(path, size)
        except ImageError as e:
            errors.append(f"{path}: {e.reason}")
            report(f"left out: {errors[-1]}")
            continue
        photos.append(((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
    if not photos:
        raise UserError(f"{name}: none of its pictures can be read; give a folder of photos")
    return PhotoSet(torch.stack(photos), tuple(errors))


def _generator(seed: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(seed, purpose))


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return torch.randperm(count, generator=_generator(seed, f"epoch {epoch}")).numpy()

"""Training photos in memory, and batches determined by seed and iteration."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from osasis.errors import ImageError, UserError
from osasis.images.listing import find_images
from osasis.images.tensors import from_uint8, load_square, to_uint8
from osasis.seeds import derived_generator

Report = Callable[[str], None]


@dataclass(frozen=True)
class PhotoSet:
    """Photos, (N, 3, H, W) uint8, and the errors of unreadable files."""

    photos: Tensor
    errors: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.photos)

    def fingerprint(self) -> str:
        """Hash of the photos and their order."""
        digest = hashlib.sha256(str(tuple(self.photos.shape)).encode())
        digest.update(self.photos.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def images(self, limit: int | None = None) -> Tensor:
        """The first ``limit`` photos (default: all), (N, 3, H, W) in [-1, 1]."""
        return from_uint8(self.photos[:limit])

    def batch(self, seed: int, iteration: int, size: int) -> Tensor:
        """The batch of an iteration, (size, 3, H, W) in [-1, 1], randomly mirrored.

        Every epoch is a new permutation; a batch may span two epochs. Equal arguments give equal
        batches, also in resumed runs and on other workers.
        """
        count = len(self.photos)
        first = iteration * size
        index = [
            int(_permutation(seed, k // count, count)[k % count])
            for k in range(first, first + size)
        ]
        flips = torch.rand(size, generator=derived_generator(seed, f"flips {iteration}")) < 0.5
        photos = from_uint8(self.photos[torch.tensor(index)])
        return torch.where(flips.view(-1, 1, 1, 1), photos.flip(3), photos)


def read_photo_set(folder: str | Path, size: int, report: Report = lambda line: None) -> PhotoSet:
    """Read every image below a folder, cropped to a square of ``size`` pixels.

    Unreadable files are skipped and reported. Raises UserError if no image can be read.
    """
    photos, errors = [], []
    for path in find_images(folder, report):
        try:
            image = load_square(path, size)
        except ImageError as e:
            errors.append(f"{path}: {e.reason}")
            report(f"skipped: {errors[-1]}")
            continue
        photos.append(to_uint8(image))
    if not photos:
        raise UserError(f"{folder}: no image can be read (first: {errors[0]}); give other photos")
    return PhotoSet(torch.stack(photos), tuple(errors))


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return torch.randperm(count, generator=derived_generator(seed, f"epoch {epoch}")).numpy()

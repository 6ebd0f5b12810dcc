"""Training data of procedural looks: photos painted in many looks, in memory as uint8."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from osasis.errors import UserError
from osasis.images.photo_set import read_photo_set
from osasis.images.tensors import from_uint8, to_uint8
from osasis.looks import LOOKS, PAINT_SIDE, paint
from osasis.seeds import derived_generator, derived_seed


@dataclass(frozen=True)
class LookDataset:
    """M looks, each on P photos.

    photos: (N, 3, S, S) uint8. pictures: (M, P, 3, S, S) uint8, the painted photos.
    photo_index: (M, P), the photo of each picture. looks: names of the M looks.
    """

    photos: Tensor
    pictures: Tensor
    photo_index: Tensor
    looks: tuple[str, ...]


def read_photos(folder: Path) -> Tensor:
    """Read the photos of a folder as (N, 3, PAINT_SIDE, PAINT_SIDE) uint8; skip unreadable files.

    Raises UserError if fewer than two can be read.
    """
    photos = read_photo_set(folder, PAINT_SIDE).photos
    if len(photos) < 2:
        raise UserError(f"{folder}: only one photo can be read; at least 2 are needed")
    return photos


def make_look_dataset(
    photos: Tensor,
    count: int,
    people: int,
    size: int,
    seed: int,
) -> LookDataset:
    """Draw ``count`` looks with random parameters and paint each on ``people`` different photos.

    photos: (N, 3, H, W) uint8. size: side of the results in pixels; photos are painted at full size
    and then scaled down. Every look occurs equally often.
    """
    g = derived_generator(seed, "pool")
    names = list(LOOKS)
    looks = tuple(names[i % len(names)] for i in range(count))
    index = torch.stack([torch.randperm(len(photos), generator=g)[:people] for _ in range(count)])
    pictures = torch.empty(*index.shape, 3, size, size, dtype=torch.uint8)
    for i, look in enumerate(looks):
        painted = [
            paint(from_uint8(photos[n]), look, derived_seed(seed, f"painting {i}"))
            for n in index[i]
        ]
        pictures[i] = _shrink(torch.stack(painted), size)
    small = [_shrink(from_uint8(part), size) for part in photos.split(64)]
    return LookDataset(torch.cat(small), pictures, index, looks)


def _shrink(x: Tensor, size: int) -> Tensor:
    """Scale images in [-1, 1] to side ``size`` with antialiasing; uint8."""
    return to_uint8(F.interpolate(x, (size, size), mode="bicubic", antialias=True))

"""Training data of procedural looks: photos painted in many looks, in memory as uint8."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from osasis.errors import ImageError, UserError
from osasis.images.listing import find_images
from osasis.images.tensors import from_uint8, load_square, to_uint8
from osasis.pretraining.looks import LOOKS, paint
from osasis.seeds import derived_seed

# Side in pixels at which photos are painted before they are scaled down, as users' images are.
PAINT_SIDE = 128


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


def shrink(x: Tensor, size: int) -> Tensor:
    """Scale (..., 3, H, W) in [-1, 1] to side ``size`` with antialiasing."""
    flat = x.reshape(-1, *x.shape[-3:])
    small = F.interpolate(flat, (size, size), mode="bicubic", antialias=True)
    return small.clamp(-1, 1).view(*x.shape[:-2], size, size)


def read_photos(folder: Path, limit: int | None = None, side: int = PAINT_SIDE) -> Tensor:
    """Read photos of a folder as (N, 3, side, side) uint8; unreadable files are skipped.

    limit: read this many, evenly spread. Raises UserError where fewer than two can be read.
    """
    found = find_images(folder)
    count = min(limit or len(found), len(found))
    photos, reasons = [], []
    for path in (found[i * len(found) // count] for i in range(count)):
        try:
            photos.append(to_uint8(load_square(path, side)))
        except ImageError as e:
            reasons.append(str(e))
    if len(photos) < 2:
        why = f" (first: {reasons[0]})" if reasons else ""
        raise UserError(f"{folder}: {len(photos)} photos can be read; at least 2 are needed{why}")
    return torch.stack(photos)


def make_look_dataset(
    photos: Tensor,
    count: int,
    people: int,
    size: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> LookDataset:
    """Draw ``count`` looks with random parameters and paint each on ``people`` different photos.

    photos: (N, 3, H, W) uint8. size: side of the result in pixels. Every look occurs equally often.
    progress: called with the index of each finished look.
    """
    g = torch.Generator().manual_seed(derived_seed(seed, "pool"))
    names = list(LOOKS)
    looks = tuple(names[i % len(names)] for i in range(count))
    who = torch.stack([torch.randperm(len(photos), generator=g)[:people] for _ in range(count)])
    out = torch.empty(count, who.shape[1], 3, size, size, dtype=torch.uint8)
    for i, look in enumerate(looks):
        painted = [
            paint(from_uint8(photos[n]), look, derived_seed(seed, f"painting {i}")) for n in who[i]
        ]
        out[i] = to_uint8(shrink(torch.stack(painted), size))
        if progress:
            progress(i)
    small = [to_uint8(shrink(from_uint8(part), size)) for part in photos.split(64)]
    return LookDataset(torch.cat(small), out, who, looks)

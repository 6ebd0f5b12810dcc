"""Photos and procedural looks as training data, held in memory as bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from osasis.errors import ImageError, UserError
from osasis.images.decoding import find_images
from osasis.images.tensors import load_square
from osasis.pretraining.looks import LOOKS, paint
from osasis.seeds import derived_seed

# Looks are painted at this side and then made small, as a user's picture is.
PAINT_SIDE = 128


@dataclass(frozen=True)
class LookDataset:
    """photos: (N, 3, S, S) uint8. pictures: (M, P, 3, S, S) uint8: M looks on P photos each.

    who: (M, P), the index of each picture's photo. looks: the M looks' names.
    """

    photos: Tensor
    pictures: Tensor
    who: Tensor
    looks: tuple[str, ...]


def to_uint8(x: Tensor) -> Tensor:
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(x: Tensor) -> Tensor:
    return x.float() / 127.5 - 1


def shrink(x: Tensor, size: int) -> Tensor:
    """(..., 3, H, W) in [-1, 1] -> side ``size``, antialiased."""
    flat = x.reshape(-1, *x.shape[-3:])
    small = F.interpolate(flat, (size, size), mode="bicubic", antialias=True)
    return small.clamp(-1, 1).view(*x.shape[:-2], size, size)


def read_photos(folder: Path, limit: int | None = None, side: int = PAINT_SIDE) -> Tensor:
    """Photos of a folder, (N, 3, side, side) uint8; broken files are passed over. UserError where
    fewer than two can be read."""
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
        raise UserError(f"{folder}: {len(photos)} photos can be read; two are the least{why}")
    return torch.stack(photos)


def make_look_dataset(
    photos: Tensor,
    count: int,
    people: int,
    size: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> LookDataset:
    """``count`` looks with parameters of their own, each on ``people`` different photos.

    photos: (N, 3, H, W) uint8. Every look's name comes equally often.
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

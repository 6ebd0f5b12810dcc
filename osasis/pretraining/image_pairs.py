"""Image pairs for distilling the perceptual net: photos and paintings with changed versions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from osasis.images.tensors import from_uint8, to_uint8
from osasis.looks.dataset import make_look_dataset
from osasis.seeds import derived_generator


def distort(x: Tensor, kind: int, g: torch.Generator) -> Tensor:
    """Distort an image (3, H, W) in [-1, 1] as reconstructions do.

    kind: 0 noise, 1 lost detail, 2 shift, 3 contrast and colour cast, 4 warp, 5 a flat patch,
    6 mirroring.
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=g))

    side = x.shape[-1]
    if kind == 0:
        y = x + uniform(0.03, 0.35) * torch.randn(x.shape, generator=g)
    elif kind == 1:
        y = F.interpolate(
            F.interpolate(x[None], scale_factor=uniform(0.2, 0.8), mode="area"),
            (side, side),
            mode="bicubic",
        )[0]
    elif kind == 2:
        y = torch.roll(x, tuple(int(v) for v in torch.randint(-3, 4, (2,), generator=g)), (1, 2))
    elif kind == 3:
        gain, cast = uniform(0.6, 1.4), 0.25 * torch.randn(3, 1, 1, generator=g)
        y = x * gain + cast
    elif kind == 4:
        # A smooth warp of one or two pixels.
        shift = F.interpolate(torch.randn(1, 2, 5, 5, generator=g), (side, side), mode="bicubic")[
            0
        ].permute(1, 2, 0)
        eye = F.affine_grid(torch.eye(2, 3)[None], [1, 3, side, side], align_corners=False)
        grid = eye + shift[None] * uniform(0.01, 0.05)
        y = F.grid_sample(x[None], grid, padding_mode="border", align_corners=False)[0]
    elif kind == 5:
        cut = torch.randint(0, side // 2, (2,), generator=g)
        y, n = x.clone(), side // 3
        y[:, cut[0] : cut[0] + n, cut[1] : cut[1] + n] = x.mean(dim=(1, 2), keepdim=True)
    else:
        y = x.flip(-1)
    return y.clamp(-1, 1)


def make_pairs(photos: Tensor, count: int, size: int, seed: int) -> Tensor:
    """Image pairs (count, 2, 3, size, size) uint8.

    photos: (N, 3, H, W) uint8. The first image of a third of the pairs is a photo, otherwise a
    painted photo. The second image is a distortion of the first, its photo, another painted photo,
    or a distorted blend of painting and photo.
    """
    g = derived_generator(seed, "pairs")
    painted = make_look_dataset(photos, max(2, 2 * count // 3), 1, size, seed)
    pictures, who = painted.pictures[:, 0], painted.photo_index[:, 0]
    pairs = []
    for i in range(count):
        n = i % len(pictures)
        if i < len(pictures):
            a, photo = from_uint8(pictures[n]), from_uint8(painted.photos[who[n]])
        else:
            pick = int(torch.randint(len(photos), (), generator=g))
            a = photo = from_uint8(painted.photos[pick])
        kind = int(torch.randint(0, 12, (), generator=g))
        if kind < 7:
            b = distort(a, kind, g)
        elif kind < 9:
            b = photo if i < len(pictures) else from_uint8(pictures[n])
        elif kind < 10:
            other = int(torch.randint(len(pictures), (), generator=g))
            b = from_uint8(pictures[other])
        else:
            mix = float(torch.rand((), generator=g)) * 0.7
            b = distort(a * (1 - mix) + photo * mix, kind - 10, g)
        pairs.append(to_uint8(torch.stack([a, b])))
    return torch.stack(pairs)

"""Edge-aware upsampling of a stylization to the photo's resolution, by a guided filter.

The guided filter (He, Sun, Tang: "Guided Image Filtering", TPAMI 2013; "Fast Guided Filter", 2015)
fits the colour change of the stylization, in a window around each pixel of the small square, as an
affine function of the photo's colours. The coefficients are smooth and can be upsampled; applied to
the full-size photo, they follow its edges. The fit is to the change, so that an unchanged square
leaves the photo exactly as it was. The residual of the fit, such as strokes that the style adds, is
upsampled and added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from osasis.images.geometry import SquarePlacement

# Radius of a window in pixels of the square, and the variance (of colours in [0, 1]) below which a
# window counts as flat.
RADIUS = 2
SMOOTHNESS = 1e-3
# Photo pixels that are processed at a time; a strip takes about 100 bytes for each pixel.
STRIP_PIXELS = 1 << 18
# In half sides of the square. REACH: the distance outside the square over which the change at its
# border becomes its mean change. SEAM: the distance inside the square over which the local change
# becomes the change at the border.
REACH = 0.5
SEAM = 0.25
# Window for the change at the border, as a share of the square's side. A wide window contains more
# colours, which keeps the filter from extending single strokes and from extrapolating.
WIDE = 0.25
WIDE_SMOOTHNESS = 1e-2


@dataclass(frozen=True)
class ColourChange:
    """The colour change between a square and its stylization.

    local: (15, h, w), nine factors (output channel first) and three offsets of the affine change in
    small windows, and the three channels of its residual. wide: (12, h, w), the affine change in
    wide windows. overall: (12,), the affine change of the whole square.
    """

    local: Tensor
    wide: Tensor
    overall: Tensor


def fit_colour_change(
    photo: Tensor, stylized: Tensor, *, radius: int = RADIUS, smoothness: float = SMOOTHNESS
) -> ColourChange:
    """Fit the change from a square to its stylization, both (3, h, w) in [-1, 1]."""
    guide = photo.detach().float().cpu().add(1).div(2)[None]
    change = stylized.detach().float().cpu().add(1).div(2)[None] - guide
    size = guide.shape[2] * guide.shape[3]
    local = _affine(guide, change, lambda x: _box(x, radius), smoothness)
    local = _box(local, radius)
    reach = max(1, round(WIDE * guide.shape[2]))
    wide = _affine(guide, change, lambda x: _box(x, reach), WIDE_SMOOTHNESS)
    wide = _box(wide, reach)
    whole = _affine(guide, change, lambda x: x.mean((2, 3), keepdim=True), WIDE_SMOOTHNESS)
    explained = _evaluate(guide[0].reshape(3, size), local[0].reshape(12, size))
    residual = change[0] - explained.view(3, *guide.shape[2:])
    return ColourChange(torch.cat([local[0], residual]), wide[0], whole.flatten())


def _box(x: Tensor, radius: int) -> Tensor:
    side = 2 * radius + 1
    return F.avg_pool2d(x, side, stride=1, padding=radius, count_include_pad=False)


def _affine(
    guide: Tensor, change: Tensor, mean: Callable[[Tensor], Tensor], smoothness: float
) -> Tensor:
    """Coefficients (1, 12, h, w) of the regularised least-squares fit in each window."""
    centre, target = mean(guide), mean(change)
    pairs = [(i, j) for i in range(3) for j in range(3)]
    cov = torch.stack([mean(guide[:, [i]] * guide[:, [j]])[0, 0] for i, j in pairs], -1)
    cov = cov - torch.stack([centre[0, i] * centre[0, j] for i, j in pairs], -1)
    cross = torch.stack([mean(guide[:, [i]] * change[:, [j]])[0, 0] for i, j in pairs], -1)
    cross = cross - torch.stack([centre[0, i] * target[0, j] for i, j in pairs], -1)
    h, w = cov.shape[:2]
    matrix = cov.view(h, w, 3, 3).double() + smoothness * torch.eye(3, dtype=torch.float64)
    factors = torch.linalg.solve(matrix, cross.view(h, w, 3, 3).double()).float()
    offset = target[0].permute(1, 2, 0) - torch.einsum(
        "hwi,hwij->hwj", centre[0].permute(1, 2, 0), factors
    )
    rows = factors.permute(3, 2, 0, 1).reshape(9, h, w)  # output channel first
    return torch.cat([rows, offset.permute(2, 0, 1)])[None]


def _evaluate(pixels: Tensor, coefficients: Tensor) -> Tensor:
    """The change (3, n) of pixels (3, n) by coefficients (12, n)."""
    factors = coefficients[:9].view(3, 3, -1)
    return (factors * pixels[None]).sum(1) + coefficients[9:12]


def apply_colour_change(
    image: Image.Image,
    change: ColourChange,
    place: SquarePlacement,
    *,
    feather: float | None = None,
) -> Image.Image:
    """Apply a change to a whole photo ("RGB"), strip by strip.

    Outside the square, the change at its border is used and fades into the mean change with the
    distance, so that the border is not visible. With ``feather`` (a share of half a side, in
    (0, 1]) only the square is changed, and the change fades out towards its rounded border.
    Additional memory does not depend on the size of the photo.
    """
    pixels = np.array(image)
    box = (0, 0, image.width, image.height)
    if feather is not None:
        box = place.bounds(image.width, image.height)
    for rows, grid in _strips(place, box):
        window = pixels[rows, box[0] : box[2]]
        shape = window.shape
        photo = torch.from_numpy(window.reshape(-1, 3).T.astype(np.float32) / 255)
        coefficients = _sample(change.local, grid)
        if feather is None:
            coefficients = _extrapolated(change, coefficients, grid, place, image.size)
        delta = _evaluate(photo, coefficients) + coefficients[12:]
        if feather is not None:
            delta = delta * _mask(grid, feather).flatten()
        out = (photo + delta).clamp_(0, 1).mul_(255).round_()
        pixels[rows, box[0] : box[2]] = out.to(torch.uint8).numpy().T.reshape(shape)
    return Image.fromarray(pixels)


def paste_square(
    image: Image.Image, square: Tensor, place: SquarePlacement, *, feather: float
) -> Image.Image:
    """Paste a square (3, h, w) in [-1, 1] into a photo with a feathered border."""
    pixels = np.array(image)
    box = place.bounds(image.width, image.height)
    source = square.detach().float().cpu().add(1).div(2)[None]
    for rows, grid in _strips(place, box):
        window = pixels[rows, box[0] : box[2]]
        photo = torch.from_numpy(window.transpose(2, 0, 1).astype(np.float32) / 255)
        painted = F.grid_sample(
            source, grid[None], mode="bicubic", padding_mode="border", align_corners=False
        )[0]
        out = photo + (painted.clamp(0, 1) - photo) * _mask(grid, feather)
        out = out.clamp_(0, 1).mul_(255).round_().to(torch.uint8)
        pixels[rows, box[0] : box[2]] = out.numpy().transpose(1, 2, 0)
    return Image.fromarray(pixels)


def _strips(
    place: SquarePlacement, box: tuple[int, int, int, int]
) -> Iterator[tuple[slice, Tensor]]:
    """Slices of rows, and the square's coordinates of their pixels, (rows, width, 2)."""
    left, top, right, bottom = box
    if right <= left or bottom <= top:
        return
    height = max(1, STRIP_PIXELS // (right - left))
    x = torch.arange(left, right, dtype=torch.float64) + 0.5
    for start in range(top, bottom, height):
        stop = min(bottom, start + height)
        y = torch.arange(start, stop, dtype=torch.float64)[:, None] + 0.5
        u = place.ux * x + place.uy * y + place.u0
        v = place.vx * x + place.vy * y + place.v0
        yield slice(start, stop), torch.stack([u, v], -1).float()


def _sample(maps: Tensor, grid: Tensor) -> Tensor:
    """Values (C, n) of maps (C, h, w) at n grid points; outside the square those of its border."""
    return F.grid_sample(
        maps[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False
    )[0].flatten(1)


def _extrapolated(
    change: ColourChange,
    local: Tensor,
    grid: Tensor,
    place: SquarePlacement,
    photo: tuple[int, int],
) -> Tensor:
    """Replace the coefficients near and outside the square's borders; see apply_colour_change."""
    corners = np.array([(0, 0), (photo[0], 0), (0, photo[1]), photo], float)
    u = np.abs(corners @ [place.ux, place.uy] + place.u0).max()
    v = np.abs(corners @ [place.vx, place.vy] + place.v0).max()
    # A border of the square that is the photo's border needs no transition.
    axes = [axis for axis, farthest in enumerate((u, v)) if farthest > 1 + 1e-3]
    if not axes:
        return local
    out = grid.abs()[..., axes].amax(-1).flatten() - 1
    seam = _smoothstep(1 + out / SEAM)
    if not bool((seam > 0).any()):
        return local
    coarse = _sample(change.wide, grid)
    coarse = coarse + (change.overall[:, None] - coarse) * _smoothstep(out / REACH)
    coefficients = local[:12] + (coarse - local[:12]) * seam
    return torch.cat([coefficients, local[12:] * (1 - seam)])


def _mask(grid: Tensor, feather: float) -> Tensor:
    """Blending weights: 1 inside the square, 0 on and outside its rounded border."""
    distance = grid.pow(4).sum(-1).pow(0.25)
    return _smoothstep((1 - distance) / feather)


def _smoothstep(x: Tensor) -> Tensor:
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)

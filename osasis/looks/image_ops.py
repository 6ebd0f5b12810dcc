"""Image operations of the procedural looks.

Images are (C, H, W) in [0, 1]; luminances and masks are (1, H, W). Lengths are in pixels; looks
compute them as multiples of ``length_unit``, so that a look does not depend on the image size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Colour = tuple[float, float, float]

# Paper colours of several looks.
WHITES: tuple[Colour, ...] = ((1.0, 1.0, 1.0), (0.98, 0.97, 0.94), (0.95, 0.91, 0.82))
CREAMS: tuple[Colour, ...] = ((0.95, 0.90, 0.78), (0.90, 0.84, 0.70), (0.96, 0.94, 0.88))


class SeededRandom:
    """The random draws of one painting."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def chance(self, probability: float) -> bool:
        return self.uniform(0, 1) < probability

    def choose(self, options: Sequence[Colour]) -> Colour:
        return options[int(torch.randint(len(options), (), generator=self.generator))]

    def near_colour(self, colour: Colour, spread: float = 0.05) -> Colour:
        """A random colour, each channel within ``spread`` of the given one, clamped to [0, 1]."""
        r, g, b = (min(max(c + self.uniform(-spread, spread), 0.0), 1.0) for c in colour)
        return r, g, b

    def choose_near(self, options: Sequence[Colour], spread: float = 0.05) -> Colour:
        """A random colour near one of the options."""
        return self.near_colour(self.choose(options), spread)

    def rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator)

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)


def length_unit(x: Tensor) -> float:
    """The unit of lengths, 1/64 of the shorter side, in pixels."""
    return min(x.shape[-2:]) / 64


def luminance(x: Tensor) -> Tensor:
    """Luma (ITU-R BT.601). (3, H, W) -> (1, H, W)."""
    return (x * x.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with replicated edges; sigma in pixels."""
    if sigma < 0.2:
        return x
    radius = max(1, math.ceil(2.5 * sigma))
    at = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(x)
    y = x[:, None]
    y = F.conv2d(F.pad(y, (radius, radius, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))
    y = F.conv2d(F.pad(y, (0, 0, radius, radius), mode="replicate"), kernel.view(1, 1, -1, 1))
    return y[:, 0]


def gradient(x: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences (d/dx, d/dy) of a luminance."""
    p = F.pad(x[None], (1, 1, 1, 1), mode="replicate")[0]
    return (p[:, 1:-1, 2:] - p[:, 1:-1, :-2]) / 2, (p[:, 2:, 1:-1] - p[:, :-2, 1:-1]) / 2


def edge_strength(x: Tensor, sigma: float) -> Tensor:
    """Gradient magnitude of a luminance, scaled to [0, 1] independently of the image size."""
    dx, dy = gradient(blur(x, sigma))
    return ((dx**2 + dy**2).sqrt() * 4 * length_unit(x)).clamp(0, 1)


def edge_directions(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Unit vectors along a luminance's edges, from the structure tensor: x and y, (1, H, W)."""
    dx, dy = gradient(blur(x, sigma / 3))
    a, b, c = blur(dx * dx, sigma), blur(dx * dy, sigma), blur(dy * dy, sigma)
    angle = 0.5 * torch.atan2(2 * b, a - c) + math.pi / 2
    return angle.cos(), angle.sin()


def constant_field(x: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """A vector field of one direction, angle in radians: x and y, each (1, H, W)."""
    like = x[:1]
    return torch.full_like(like, math.cos(angle)), torch.full_like(like, math.sin(angle))


def sample_bilinear(x: Tensor, at_x: Tensor, at_y: Tensor) -> Tensor:
    """Sample x bilinearly at pixel positions. at_x, at_y: (H, W)."""
    h, w = x.shape[-2:]
    grid = torch.stack([at_x * 2 / max(w - 1, 1) - 1, at_y * 2 / max(h - 1, 1) - 1], dim=-1)
    return F.grid_sample(x[None], grid[None], padding_mode="border", align_corners=True)[0]


def pixel_coordinates(x: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel coordinates (x, y), each (H, W)."""
    h, w = x.shape[-2:]
    ys, xs = torch.meshgrid(
        torch.arange(h, dtype=torch.float32), torch.arange(w, dtype=torch.float32), indexing="ij"
    )
    return xs, ys


def smooth_along(x: Tensor, field: tuple[Tensor, Tensor], length: float, steps: int = 4) -> Tensor:
    """Line integral convolution: average along a vector field, ``length`` to either side."""
    xs, ys = pixel_coordinates(x)
    total, stride = x.clone(), length / steps
    for sign in (-1.0, 1.0):
        at_x, at_y = xs, ys
        last = (sign * field[0][0], sign * field[1][0])
        for _ in range(steps):
            at_x, at_y = at_x + stride * last[0], at_y + stride * last[1]
            total = total + sample_bilinear(x, at_x, at_y)
            here = sample_bilinear(torch.cat(field), at_x, at_y)
            # The sign of the field is arbitrary; keep the direction of the last step.
            turn = torch.sign(here[0] * last[0] + here[1] * last[1])
            last = (turn * here[0], turn * here[1])
    return total / (2 * steps + 1)


def smooth_noise(x: Tensor, rng: SeededRandom, scale: float, channels: int = 1) -> Tensor:
    """Noise of standard deviation about 1 with features ``scale`` pixels wide."""
    h, w = x.shape[-2:]
    if scale <= 1:
        return rng.randn(channels, h, w)
    rows, cols = max(2, round(h / scale)) + 1, max(2, round(w / scale)) + 1
    coarse = rng.randn(1, channels, rows, cols)
    return 1.3 * F.interpolate(coarse, (h, w), mode="bicubic", align_corners=True)[0]


def fractal_noise(x: Tensor, rng: SeededRandom, scale: float) -> Tensor:
    """Noise of three octaves, the coarsest ``scale`` pixels wide."""
    parts = [smooth_noise(x, rng, scale / 2**i) * 0.6**i for i in range(3)]
    return torch.stack(parts).sum(0) / 1.4


def unit_deviation(x: Tensor) -> Tensor:
    """Scale to standard deviation 1."""
    return x / x.std().clamp_min(1e-4)


def soft_step(x: Tensor, edge: Tensor | float, softness: float) -> Tensor:
    """Sigmoid step from 0 below ``edge`` to 1 above, over a width of about ``softness``."""
    return torch.sigmoid((x - edge) * (4 / max(softness, 1e-4)))


def flat_colour(x: Tensor, colour: Colour) -> Tensor:
    """An image of one colour with the size of x, (3, H, W)."""
    return x.new_tensor(colour).view(3, 1, 1).expand(3, *x.shape[-2:])


def composite(under: Tensor, over: Tensor | Colour, mask: Tensor) -> Tensor:
    """Blend ``over`` on ``under`` with weights ``mask`` in [0, 1]."""
    top = flat_colour(under, over) if isinstance(over, tuple) else over
    return under * (1 - mask) + top * mask


def scale_contrast(x: Tensor, amount: float, pivot: float = 0.5) -> Tensor:
    return ((x - pivot) * amount + pivot).clamp(0, 1)


def stretched_luminance(x: Tensor) -> Tensor:
    """Luminance of an image, stretched to [0, 1] between its quantiles 0.02 and 0.98."""
    light = luminance(x)
    ends = torch.quantile(light.flatten(), x.new_tensor([0.02, 0.98]))
    return ((light - ends[0]) / (ends[1] - ends[0]).clamp_min(0.05)).clamp(0, 1)


def scale_saturation(x: Tensor, amount: float) -> Tensor:
    grey = luminance(x)
    return (grey + (x - grey) * amount).clamp(0, 1)


def colour_ramp(x: Tensor, colours: Sequence[Colour]) -> Tensor:
    """Interpolate a luminance between colours that are evenly spaced from 0 to 1. -> (3, H, W)."""
    table = x.new_tensor(colours)
    at = x[0].clamp(0, 1) * (len(colours) - 1)
    low = at.floor().clamp(max=len(colours) - 2).long()
    share = (at - low)[..., None]
    return (table[low] * (1 - share) + table[low + 1] * share).permute(2, 0, 1)


def vignette(x: Tensor, strength: float, centre: tuple[float, float] = (0.5, 0.5)) -> Tensor:
    """Mask of 1 at the centre and 1 - strength in the corners. -> (1, H, W)."""
    h, w = x.shape[-2:]
    xs, ys = pixel_coordinates(x)
    r2 = ((xs / w - centre[0]) ** 2 + (ys / h - centre[1]) ** 2) / 0.5
    return (1 - strength * r2.clamp(0, 1))[None]


def kuwahara(x: Tensor, radius: int) -> Tensor:
    """Soft Kuwahara filter: means of each pixel's four quadrants, weighted by low variance."""
    size = radius + 1
    padded = F.pad(x[None], (radius,) * 4, mode="replicate")
    mean = F.avg_pool2d(padded, size, 1)
    light = luminance(padded[0])[None]
    var = F.avg_pool2d(light**2, size, 1) - F.avg_pool2d(light, size, 1) ** 2
    h, w = x.shape[-2:]
    corners = [(0, 0), (0, radius), (radius, 0), (radius, radius)]
    means = torch.stack([mean[0, :, i : i + h, j : j + w] for i, j in corners])
    spread = torch.stack([var[0, :, i : i + h, j : j + w] for i, j in corners])
    weight = 1 / (spread.clamp_min(0) + 2e-4) ** 4
    return (means * weight).sum(0) / weight.sum(0)


def xdog_lines(x: Tensor, sigma: float, weight: float, cut: float, softness: float) -> Tensor:
    """Lines by extended difference of Gaussians (XDoG, Winnemöller et al., 2012). 1 is ink.

    weight: weight of the edges that are added to the tone. cut: tones below it become ink.
    """
    narrow, wide = blur(x, sigma), blur(x, 1.6 * sigma)
    return 1 - soft_step(narrow + weight * (narrow - wide), cut, softness)


def line_pattern(
    x: Tensor, period: float, angle: float, bend: Tensor | None = None, phase: float = 0.0
) -> Tensor:
    """Triangle wave across parallel lines: 0 on a line, 1 halfway between two.

    angle: in radians. bend: (1, H, W), shift in periods. phase: in periods.
    """
    xs, ys = pixel_coordinates(x)
    across = (xs * math.sin(angle) + ys * math.cos(angle)) / period + phase
    if bend is not None:
        across = across + bend[0]
    return (2 * (across - across.floor() - 0.5).abs())[None].neg().add(1)


def voronoi_cells(
    x: Tensor, rng: SeededRandom, size: float, jitter: float
) -> tuple[Tensor, Tensor]:
    """Voronoi cells of a jittered grid: index (H, W) of each pixel's cell, and border (1, H, W).

    size: of the grid in pixels. jitter: 0 to 1. border: distance to the second nearest point minus
    that to the nearest, in units of ``size``; 0 on the border of a cell.
    """
    h, w = x.shape[-2:]
    xs, ys = pixel_coordinates(x)
    rows, cols = math.ceil(h / size) + 3, math.ceil(w / size) + 3
    shift = 0.5 + jitter * (rng.rand(2, rows, cols) - 0.5)
    u, v = xs / size + 1, ys / size + 1
    i, j = v.long(), u.long()
    distances, indices = [], []
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            r, c = i + di, j + dj
            dx, dy = c + shift[0][r, c] - u, r + shift[1][r, c] - v
            distances.append((dx**2 + dy**2).sqrt())
            indices.append(r * cols + c)
    near, order = torch.stack(distances).sort(dim=0)
    index = torch.stack(indices).gather(0, order[:1])[0]
    return index, (near[1] - near[0])[None]


def average_cells(x: Tensor, index: Tensor) -> Tensor:
    """Fill every cell with its mean colour."""
    flat, count = index.flatten(), int(index.max()) + 1
    sums = x.new_zeros(x.shape[0], count).index_add_(1, flat, x.flatten(1))
    sizes = x.new_zeros(count).index_add_(0, flat, x.new_ones(flat.shape[0]))
    return (sums / sizes.clamp_min(1))[:, flat].view_as(x)

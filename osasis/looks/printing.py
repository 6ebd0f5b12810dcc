"""Looks of ink drawings, prints and photographic processes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from osasis.looks.image_ops import (
    CREAMS,
    WHITES,
    Colour,
    SeededRandom,
    blur,
    colour_ramp,
    composite,
    edge_directions,
    edge_strength,
    flat_colour,
    fractal_noise,
    kuwahara,
    length_unit,
    line_pattern,
    scale_contrast,
    scale_saturation,
    smooth_along,
    smooth_noise,
    soft_step,
    stretched_luminance,
    unit_deviation,
    vignette,
    xdog_lines,
)

INKS: tuple[Colour, ...] = ((0.04, 0.04, 0.05), (0.13, 0.10, 0.08), (0.08, 0.10, 0.22))


def ink(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Brush and ink: bold black shapes and lines on white."""
    u = length_unit(photo)
    light = stretched_luminance(photo)
    mask = xdog_lines(
        light, rng.uniform(0.7, 1.1) * u, rng.uniform(4, 9), rng.uniform(0.32, 0.5), 0.12
    )
    return composite(flat_colour(photo, rng.choose(WHITES)), rng.choose_near(INKS, 0.03), mask)


def pen(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Thin pen lines on paper, half of the time with a light wash."""
    u = length_unit(photo)
    light = stretched_luminance(photo)
    wash = rng.uniform(0, 0.35) if rng.chance(0.5) else 0.0
    mask = xdog_lines(
        light, rng.uniform(0.45, 0.7) * u, rng.uniform(12, 22), rng.uniform(0.1, 0.25), 0.2
    )
    colour = rng.choose_near(((0.1, 0.1, 0.12), (0.3, 0.18, 0.1), (0.1, 0.14, 0.36)), 0.04)
    sheet = composite(
        flat_colour(photo, rng.choose(WHITES + CREAMS)), colour, wash * (1 - blur(light, u))
    )
    return composite(sheet, colour, mask)


def engraving(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Copper plate: bent parallel lines that are wider in darker areas."""
    u = length_unit(photo)
    light = scale_contrast(stretched_luminance(photo), rng.uniform(1.0, 1.4), 0.45)
    period = rng.uniform(1.5, 2.6) * u
    angle = rng.uniform(-math.pi / 3, math.pi / 3)
    bend = rng.uniform(0.8, 2.2) * blur(light, 2.5 * u)
    shade = 1 - blur(light, 0.4 * u)
    width = (shade * rng.uniform(1.0, 1.25) - 0.08).clamp(0, 1)
    mask = 1 - soft_step(line_pattern(photo, period, angle, bend), width, 0.35)
    if rng.chance(0.6):
        other = line_pattern(photo, period, angle + rng.uniform(0.6, 1.4), bend)
        mask = torch.maximum(mask, 1 - soft_step(other, (2 * width - 1).clamp(0, 1), 0.35))
    lines = xdog_lines(light, 0.5 * u, rng.uniform(6, 12), 0.15, 0.2)
    sheet = flat_colour(photo, rng.choose_near(CREAMS + WHITES, 0.03))
    return composite(sheet, rng.choose_near(INKS, 0.04), torch.maximum(mask, lines))


def woodcut(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Carved wood: black areas with white cuts along the edges."""
    u = length_unit(photo)
    light = scale_contrast(stretched_luminance(photo), 1.3)
    field = edge_directions(light, 3 * u)
    cuts = smooth_along(smooth_noise(photo, rng, 1.3 * u), field, rng.uniform(4, 7) * u, 5)
    rough = light + rng.uniform(0.10, 0.2) * unit_deviation(cuts)
    mask = xdog_lines(rough, 0.5 * u, rng.uniform(2, 4), rng.uniform(0.4, 0.55), 0.15)
    pairs: tuple[tuple[Colour, Colour], ...] = (
        ((0.05, 0.05, 0.05), (0.95, 0.92, 0.85)),
        ((0.35, 0.08, 0.06), (0.94, 0.88, 0.74)),
        ((0.07, 0.2, 0.22), (0.9, 0.9, 0.8)),
        ((0.2, 0.12, 0.06), (0.86, 0.72, 0.45)),
    )
    black, sheet = pairs[int(rng.uniform(0, len(pairs) - 1e-6))]
    return composite(flat_colour(photo, rng.near_colour(sheet)), rng.near_colour(black, 0.03), mask)


def halftone(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Newspaper dots, in black or in three printing colours."""
    u = length_unit(photo)
    period = rng.uniform(2.0, 3.6) * u
    colour = rng.chance(0.5)
    angle = rng.uniform(0.2, 1.2)
    sheet = flat_colour(photo, rng.choose(WHITES + CREAMS))
    soft = blur(photo, 0.3 * u)
    if not colour:
        dark = 1 - scale_contrast(stretched_luminance(soft), 1.1)
        return composite(sheet, rng.choose_near(INKS, 0.06), _dots(photo, period, angle, dark))
    strong = scale_saturation(scale_contrast(soft, 1.2), rng.uniform(1.3, 2.0))
    out = sheet
    inks: tuple[Colour, ...] = ((0.0, 0.62, 0.88), (0.88, 0.05, 0.5), (0.98, 0.88, 0.05))
    for i, plate in enumerate(inks):
        dots = _dots(photo, period, angle + 0.5 * i, 1 - strong[i : i + 1])
        out = out * composite(torch.ones_like(photo), plate, dots)
    return out


def _dots(x: Tensor, period: float, angle: float, dark: Tensor) -> Tensor:
    """Round dots whose area grows with ``dark`` (1, H, W) in [0, 1]. 1 is ink."""
    a = line_pattern(x, period, angle)
    b = line_pattern(x, period, angle + math.pi / 2)
    hill = 0.5 + 0.25 * (torch.cos(math.pi * a) + torch.cos(math.pi * b))
    return soft_step(dark.clamp(0.02, 0.98), 1 - hill, 0.35)


def sepia(photo: Tensor, rng: SeededRandom) -> Tensor:
    """An old photograph: brown, faded and grainy."""
    u = length_unit(photo)
    light = scale_contrast(
        blur(stretched_luminance(photo), rng.uniform(0, 0.6) * u), rng.uniform(0.7, 1.05)
    )
    if rng.chance(0.7):
        light = light * vignette(photo, rng.uniform(-0.4, 0.5))
    light = (light + rng.uniform(0.0, 0.05) * smooth_noise(photo, rng, u)).clamp(0, 1)
    dark = rng.near_colour((0.18, 0.11, 0.06), 0.07)
    middle = rng.near_colour((0.58, 0.45, 0.30), 0.07)
    sheet = rng.near_colour((0.93, 0.86, 0.70), 0.06)
    return colour_ramp(light, (dark, middle, sheet))


def silver(photo: Tensor, rng: SeededRandom) -> Tensor:
    """A black-and-white photograph."""
    u = length_unit(photo)
    light = scale_contrast(stretched_luminance(photo), rng.uniform(0.9, 1.5), rng.uniform(0.4, 0.6))
    light = light * vignette(photo, rng.uniform(0, 0.5))
    light = (light + rng.uniform(0.0, 0.06) * smooth_noise(photo, rng, 0.7 * u)).clamp(0, 1)
    tint = rng.uniform(-0.03, 0.03)
    return colour_ramp(light, ((0.02, 0.02, 0.03), (0.97 + tint, 0.96, 0.96 - tint)))


def cyanotype(photo: Tensor, rng: SeededRandom) -> Tensor:
    """A cyanotype photograph in Prussian blue."""
    u = length_unit(photo)
    light = scale_contrast(stretched_luminance(photo), rng.uniform(0.9, 1.3))
    light = (light + 0.04 * fractal_noise(photo, rng, 8 * u)).clamp(0, 1)
    sheet = rng.near_colour((0.93, 0.95, 0.93), 0.04)
    return colour_ramp(
        light, (rng.near_colour((0.03, 0.10, 0.26)), rng.near_colour((0.22, 0.42, 0.66)), sheet)
    )


PALETTES: tuple[tuple[Colour, ...], ...] = (
    ((0.06, 0.18, 0.28), (0.75, 0.17, 0.15), (0.45, 0.62, 0.66), (0.97, 0.90, 0.70)),
    ((0.10, 0.06, 0.20), (0.55, 0.12, 0.45), (0.98, 0.45, 0.35), (1.0, 0.88, 0.55)),
    ((0.08, 0.14, 0.10), (0.16, 0.42, 0.33), (0.62, 0.74, 0.42), (0.97, 0.94, 0.80)),
    ((0.05, 0.05, 0.07), (0.30, 0.28, 0.34), (0.86, 0.55, 0.20), (0.98, 0.92, 0.82)),
    ((0.10, 0.12, 0.35), (0.10, 0.48, 0.72), (0.95, 0.62, 0.68), (0.99, 0.95, 0.86)),
    ((0.20, 0.07, 0.05), (0.62, 0.24, 0.10), (0.90, 0.62, 0.28), (0.99, 0.93, 0.75)),
)


def posterised(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Flat areas in four poster colours, by lightness."""
    u = length_unit(photo)
    smooth = kuwahara(blur(photo, 0.4 * u), max(1, round(1.6 * u)))
    light = stretched_luminance(smooth)
    colours = [rng.near_colour(c) for c in PALETTES[int(rng.uniform(0, len(PALETTES) - 1e-6))]]
    out = flat_colour(photo, colours[0])
    shift = rng.uniform(-0.06, 0.06)
    for i, colour in enumerate(colours[1:]):
        out = composite(out, colour, soft_step(light, (i + 1) / len(colours) + shift, 0.05))
    return out


def pop(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Pop art: saturated flat colours, black outlines, dots in the shadows."""
    u = length_unit(photo)
    smooth = kuwahara(photo, max(1, round(1.4 * u)))
    loud = scale_saturation(scale_contrast(smooth, 1.35), rng.uniform(1.8, 2.8))
    levels = 3.0 + rng.uniform(0, 2)
    flat = (loud * levels).round() / levels
    light = stretched_luminance(smooth)
    shade = _dots(photo, rng.uniform(2.0, 3.0) * u, 0.8, 0.75 * (1 - light))
    flat = composite(flat, flat * rng.uniform(0.5, 0.8), shade)
    lines = xdog_lines(light, 0.7 * u, rng.uniform(6, 10), 0.16, 0.15)
    return composite(flat, (0.03, 0.02, 0.05), lines)


def risograph(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Two bright inks, printed slightly out of register."""
    u = length_unit(photo)
    pairs: tuple[tuple[Colour, Colour], ...] = (
        ((1.0, 0.33, 0.40), (0.0, 0.36, 0.65)),
        ((1.0, 0.72, 0.1), (0.23, 0.16, 0.42)),
        ((0.1, 0.68, 0.55), (0.6, 0.1, 0.3)),
        ((1.0, 0.42, 0.2), (0.05, 0.28, 0.25)),
    )
    first, second = pairs[int(rng.uniform(0, len(pairs) - 1e-6))]
    light = stretched_luminance(photo)
    sheet = rng.choose(WHITES + CREAMS)
    speck = 0.13 * smooth_noise(photo, rng, 0.8 * u)
    moved = torch.roll(light, (round(rng.uniform(-1, 1) * u), round(rng.uniform(0, 1) * u)), (1, 2))
    soft = soft_step(1 - moved + speck, 0.35, 0.7) * 0.9
    dark = soft_step(1 - light + speck, rng.uniform(0.55, 0.65), 0.25)
    out = composite(flat_colour(photo, sheet), rng.near_colour(first), soft)
    return out * composite(torch.ones_like(photo), rng.near_colour(second), dark)


def blueprint(photo: Tensor, rng: SeededRandom) -> Tensor:
    """White lines on blue over a faint grid."""
    u = length_unit(photo)
    light = stretched_luminance(photo)
    blue = rng.near_colour((0.06, 0.20, 0.46), 0.05)
    sheet = flat_colour(photo, blue) * (1 + 0.04 * fractal_noise(photo, rng, 16 * u))
    period = rng.uniform(6, 10) * u
    grid = torch.minimum(line_pattern(photo, period, 0.0), line_pattern(photo, period, math.pi / 2))
    sheet = composite(sheet, (0.75, 0.85, 1.0), 0.25 * (1 - soft_step(grid, 1.2 * u / period, 0.1)))
    wash = rng.uniform(0.05, 0.3) * blur(light, 0.6 * u)
    lines = xdog_lines(light, rng.uniform(0.5, 0.75) * u, rng.uniform(14, 22), 0.25, 0.2)
    return composite(sheet, (0.93, 0.96, 1.0), torch.maximum(wash, 0.95 * lines)).clamp(0, 1)


def neon(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Glowing tubes along the edges on a dark background."""
    u = length_unit(photo)
    strength = edge_strength(stretched_luminance(photo), rng.uniform(0.6, 0.9) * u)
    tube = soft_step(strength, rng.uniform(0.22, 0.32), 0.25) * strength.clamp_min(0.4)
    hues: tuple[Colour, ...] = ((1.0, 0.15, 0.65), (0.1, 0.85, 1.0), (0.55, 0.3, 1.0))
    hues += ((0.2, 1.0, 0.5), (1.0, 0.55, 0.1))
    one, two = rng.choose(hues), rng.choose(hues)
    where = soft_step(fractal_noise(photo, rng, 28 * u), 0.0, 1.0)
    colour = composite(flat_colour(photo, one), two, where)
    glow = blur(tube, 1.6 * u) * 1.1 + blur(tube, 4.5 * u) * 0.9
    night = flat_colour(photo, rng.near_colour((0.03, 0.02, 0.07), 0.02)) + 0.10 * photo
    return (night + colour * glow + 0.75 * tube).clamp(0, 1)

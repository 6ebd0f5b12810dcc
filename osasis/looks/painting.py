"""Looks of paintings, mosaics and drawings."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from osasis.looks.image_ops import (
    CREAMS,
    WHITES,
    Colour,
    SeededRandom,
    average_cells,
    blur,
    composite,
    constant_field,
    edge_directions,
    edge_strength,
    flat_colour,
    fractal_noise,
    gradient,
    kuwahara,
    length_unit,
    line_pattern,
    luminance,
    scale_contrast,
    scale_saturation,
    smooth_along,
    smooth_noise,
    soft_step,
    stretched_luminance,
    unit_deviation,
    vignette,
    voronoi_cells,
    xdog_lines,
)

VARNISHES: tuple[Colour, ...] = (
    (1.0, 0.84, 0.55),
    (1.0, 0.93, 0.80),
    (0.93, 0.80, 0.62),
    (0.86, 0.92, 0.95),
    (1.0, 0.78, 0.62),
)
GROUNDS: tuple[Colour, ...] = (
    (0.10, 0.07, 0.05),
    (0.22, 0.14, 0.08),
    (0.12, 0.14, 0.12),
    (0.72, 0.50, 0.15),
    (0.30, 0.28, 0.25),
    (0.24, 0.08, 0.07),
)


def _fine_detail(photo: Tensor) -> Tensor:
    """Fine dark and light details, such as eyes and mouth, as a difference of Gaussians."""
    light = luminance(photo)
    u = length_unit(photo)
    return blur(light, 0.35 * u) - blur(light, 1.8 * u)


def oil(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Old master: dabs along the edges, warm varnish, dark corners."""
    u = length_unit(photo)
    dabs = kuwahara(photo, max(1, round(rng.uniform(0.6, 1.2) * u)))
    light = stretched_luminance(dabs)
    field = edge_directions(light, 1.5 * u)
    dabs = smooth_along(dabs, field, rng.uniform(0.6, 1.6) * u)
    dabs = (dabs + rng.uniform(0.5, 1.0) * _fine_detail(photo)).clamp(0, 1)
    bristle = smooth_along(smooth_noise(photo, rng, 0.8 * u), field, 4 * u)
    dabs = scale_contrast(scale_saturation(dabs, rng.uniform(0.9, 1.6)), rng.uniform(1.0, 1.35))
    glaze = dabs * flat_colour(photo, rng.choose_near(VARNISHES, 0.05))
    around = 1 - vignette(photo, 1.0, (0.5, 0.48))
    sunk = composite(glaze, rng.choose_near(GROUNDS, 0.04), soft_step(around, 0.38, 0.5) * 0.9)
    ridge = gradient(blur(bristle, 0.3 * u))[1]
    return (sunk * (1 + 0.05 * bristle) + rng.uniform(0.02, 0.08) * ridge).clamp(0, 1)


def impasto(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Post-impressionist: thick, bright strokes in swirls."""
    u = length_unit(photo)
    base = scale_saturation(scale_contrast(photo, 1.15), rng.uniform(1.5, 2.3))
    field = edge_directions(stretched_luminance(blur(photo, u)), 2.0 * u)
    tint = 0.13 * smooth_noise(photo, rng, 1.6 * u, 3)
    strokes = smooth_along((base + tint).clamp(0, 1), field, rng.uniform(1.6, 3.2) * u, 5)
    strokes = (strokes + rng.uniform(0.8, 1.2) * _fine_detail(photo)).clamp(0, 1)
    height = smooth_along(smooth_noise(photo, rng, 1.1 * u), field, 5 * u, 5)
    dx, dy = gradient(unit_deviation(height))
    relief = rng.uniform(0.05, 0.11) * (dx + dy)
    cool = rng.choose_near(((0.9, 0.95, 1.1), (1.08, 1.0, 0.85), (1.0, 1.03, 0.9)), 0.05)
    return (scale_contrast(strokes, 1.2) * flat_colour(photo, cool) + relief).clamp(0, 1)


def watercolour(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Thin washes on white paper, darker at their borders."""
    u = length_unit(photo)
    wet = kuwahara(blur(photo, 0.4 * u), max(1, round(rng.uniform(1.0, 2.0) * u)))
    wet = (wet + rng.uniform(0.5, 1.1) * _fine_detail(photo)).clamp(0, 1)
    wash = scale_saturation(wet, rng.uniform(1.2, 1.9))
    pale = rng.uniform(0.55, 0.8)
    density = (1 - wash) * pale * (1 + rng.uniform(0.12, 0.25) * fractal_noise(photo, rng, 9 * u))
    pool = edge_strength(luminance(wet), 0.5 * u)
    density = (
        density * (1 + rng.uniform(0.3, 0.7) * pool) * (1 + 0.07 * smooth_noise(photo, rng, u))
    )
    border = vignette(photo, 1.0) + 0.07 * fractal_noise(photo, rng, 10 * u)
    density = density * soft_step(border, rng.uniform(0.15, 0.45), 0.3)
    sheet = flat_colour(photo, rng.choose(((1.0, 1.0, 1.0), (0.99, 0.98, 0.95))))
    return (sheet - density.clamp(0, 1)).clamp(0, 1)


def gouache(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Flat opaque paint in few, slightly chalky colours."""
    u = length_unit(photo)
    index, _ = voronoi_cells(photo, rng, rng.uniform(1.8, 2.8) * u, 0.9)
    flat = kuwahara(average_cells(photo, index), max(1, round(1.2 * u)))
    flat = (flat + rng.uniform(0.6, 1.1) * _fine_detail(photo)).clamp(0, 1)
    levels = rng.uniform(5, 8)
    flat = composite(flat, (flat * levels).round() / levels, torch.full_like(flat[:1], 0.7))
    chalky = scale_saturation(flat, rng.uniform(0.9, 1.5)) * 0.85 + 0.1
    tint = flat_colour(photo, rng.choose_near(((1.0, 0.96, 0.9), (0.95, 1.0, 1.0)), 0.04))
    return (chalky * tint + 0.015 * fractal_noise(photo, rng, 3 * u)).clamp(0, 1)


def pastel(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Soft crayons: light colours on rough paper."""
    u = length_unit(photo)
    soft = blur(photo, 0.5 * u)
    colours = scale_saturation(soft, rng.uniform(1.3, 2.0)) * rng.uniform(0.6, 0.75) + 0.3
    field = constant_field(photo, rng.uniform(0.4, 1.2))
    tooth = smooth_along(smooth_noise(photo, rng, 0.8 * u), field, 2.5 * u)
    sheet = rng.choose_near(((0.85, 0.80, 0.72), (0.55, 0.58, 0.62), (0.95, 0.9, 0.85)))
    cover = soft_step(unit_deviation(tooth), rng.uniform(-1.0, -0.4), 2.0)
    return composite(flat_colour(photo, sheet), colours.clamp(0, 1), cover * rng.uniform(0.85, 1.0))


def pointillism(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Round dots of purer colours side by side, in three layers."""
    u = length_unit(photo)
    strong = scale_saturation(scale_contrast(blur(photo, 0.5 * u), 1.15), rng.uniform(1.3, 2.0))
    out = composite(strong, rng.choose(WHITES + CREAMS), torch.full_like(photo[:1], 0.35))
    size = rng.uniform(1.5, 2.4) * u
    vivid = rng.uniform(0.06, 0.14)
    for _ in range(3):
        index, border = voronoi_cells(photo, rng, size, 0.9)
        colour = average_cells(strong, index)
        jitter = vivid * rng.randn(3, int(index.max()) + 1)
        colour = (colour + jitter[:, index.flatten()].view_as(photo)).clamp(0, 1)
        out = composite(out, colour, soft_step(border, 0.22, 0.25))
        size *= 0.85
    return out


def mosaic(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Stone tiles with dark or light joints."""
    u = length_unit(photo)
    index, border = voronoi_cells(photo, rng, rng.uniform(2.2, 3.4) * u, rng.uniform(0.25, 0.7))
    strong = scale_saturation(scale_contrast(photo, 1.25), rng.uniform(1.1, 1.7))
    tiles = average_cells(strong, index)
    jitter = 0.05 * rng.randn(1, int(index.max()) + 1)
    tiles = (tiles + jitter[:, index.flatten()].view(1, *photo.shape[-2:])).clamp(0, 1)
    joint = rng.choose_near(((0.12, 0.11, 0.1), (0.35, 0.3, 0.25), (0.88, 0.85, 0.78)))
    return composite(tiles, joint, 1 - soft_step(border, rng.uniform(0.12, 0.22), 0.15))


def stained_glass(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Glowing panes between leads."""
    u = length_unit(photo)
    index, border = voronoi_cells(photo, rng, rng.uniform(3.6, 5.2) * u, 0.95)
    panes = scale_saturation(
        scale_contrast(average_cells(photo, index), 1.3), rng.uniform(2.0, 3.2)
    )
    panes = panes * 0.8 + 0.25 * scale_saturation(photo, 2.0)
    light = stretched_luminance(photo)
    lead = 1 - soft_step(border, rng.uniform(0.1, 0.16), 0.12)
    lead = torch.maximum(lead, xdog_lines(light, 0.8 * u, 7, 0.12, 0.15))
    glow = 0.9 + 0.15 * fractal_noise(photo, rng, 14 * u)
    return composite((panes * glow).clamp(0, 1), rng.near_colour((0.05, 0.05, 0.06), 0.03), lead)


def tapestry(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Wool stitches in muted, dyed colours."""
    u = length_unit(photo)
    dyed = scale_saturation(scale_contrast(blur(photo, 0.5 * u), 1.1), rng.uniform(0.9, 1.5))
    levels = rng.uniform(4, 7)
    dyed = (dyed * levels).round() / levels
    period = rng.uniform(1.9, 2.6) * u
    thread = torch.minimum(line_pattern(photo, period, 0.75), line_pattern(photo, period, -0.75))
    wool = 0.72 + 0.4 * thread + 0.06 * smooth_noise(photo, rng, 0.8 * u)
    tint = flat_colour(photo, rng.choose_near(((0.95, 0.85, 0.7), (0.85, 0.9, 0.8)), 0.05))
    return ((dyed * 0.85 + 0.08) * wool * tint).clamp(0, 1)


def charcoal(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Smudged black on grainy paper."""
    u = length_unit(photo)
    light = scale_contrast(stretched_luminance(photo), rng.uniform(1.1, 1.5), 0.45)
    field = constant_field(photo, -rng.uniform(0.5, 1.1))
    tooth = smooth_along(smooth_noise(photo, rng, 0.7 * u), field, rng.uniform(1.5, 4) * u)
    tooth = unit_deviation(tooth)
    shade = 1 - blur(light, 0.7 * u)
    mask = soft_step(shade + rng.uniform(0.10, 0.2) * tooth, rng.uniform(0.45, 0.6), 0.7)
    lines = xdog_lines(light, 0.6 * u, rng.uniform(5, 10), 0.18, 0.3)
    sheet = rng.choose_near(WHITES + CREAMS + ((0.8, 0.78, 0.74),), 0.03)
    colour = rng.near_colour((0.09, 0.085, 0.08), 0.04)
    return composite(flat_colour(photo, sheet), colour, torch.maximum(mask * 0.95, lines * 0.9))


def pencil(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Graphite: pale slanting strokes and soft outlines."""
    u = length_unit(photo)
    light = stretched_luminance(photo)
    field = constant_field(photo, -rng.uniform(0.6, 1.1))
    stroke = unit_deviation(smooth_along(smooth_noise(photo, rng, 0.6 * u), field, 4 * u, 5))
    shade = (1 - light) * rng.uniform(0.5, 0.75)
    mask = (shade * (1 + 0.3 * stroke)).clamp(0, 1)
    dodge = (1 - light / blur(light, 2.2 * u).clamp_min(0.05)).clamp(0, 1) * rng.uniform(1.6, 2.6)
    sheet = rng.choose(WHITES + CREAMS[2:])
    colour = rng.choose_near(((0.2, 0.2, 0.22), (0.2, 0.2, 0.22), (0.5, 0.2, 0.14)), 0.04)
    return composite(flat_colour(photo, sheet), colour, torch.maximum(mask, dodge.clamp(0, 0.95)))


def hatching(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Crossed lines in four directions, more of them in darker areas."""
    u = length_unit(photo)
    light = blur(scale_contrast(stretched_luminance(photo), 1.15), 0.4 * u)
    period = rng.uniform(1.6, 2.4) * u
    start = rng.uniform(0, math.pi)
    wobble = 0.25 * fractal_noise(photo, rng, 10 * u)
    mask = torch.zeros_like(light)
    for i, cut in enumerate((0.75, 0.55, 0.36, 0.2)):
        line = line_pattern(photo, period, start + i * math.pi / 4, wobble, phase=0.3 * i)
        mask = torch.maximum(
            mask, (1 - soft_step(line, 0.42, 0.4)) * (1 - soft_step(light, cut, 0.15))
        )
    lines = xdog_lines(light, 0.5 * u, rng.uniform(8, 14), 0.2, 0.2)
    inks: tuple[Colour, ...] = ((0.08, 0.07, 0.07), (0.25, 0.15, 0.08), (0.1, 0.12, 0.32))
    sheet = flat_colour(photo, rng.choose(WHITES + CREAMS))
    return composite(sheet, rng.choose_near(inks, 0.04), torch.maximum(mask, lines))


def chalk(photo: Tensor, rng: SeededRandom) -> Tensor:
    """Coloured paper with dark chalk in the shadows and white chalk in the highlights."""
    u = length_unit(photo)
    light = stretched_luminance(photo)
    tooth = smooth_noise(photo, rng, 0.8 * u)
    sheets: tuple[Colour, ...] = (
        (0.62, 0.60, 0.54),
        (0.45, 0.50, 0.55),
        (0.70, 0.58, 0.44),
        (0.40, 0.42, 0.36),
        (0.16, 0.20, 0.19),
    )
    sheet = rng.choose_near(sheets, 0.04)
    out = flat_colour(photo, sheet) * (1 + 0.03 * tooth)
    rough = light + rng.uniform(0.05, 0.12) * tooth
    dark = (1 - soft_step(rough, rng.uniform(0.28, 0.4), 0.45)) * rng.uniform(0.6, 0.9)
    white = soft_step(rough, rng.uniform(0.66, 0.8), 0.4) * rng.uniform(0.6, 0.95)
    reds: tuple[Colour, ...] = ((0.12, 0.10, 0.10), (0.45, 0.16, 0.09))
    ground = sum(sheet) / 3
    shade = rng.near_colour(rng.choose(reds) if ground > 0.3 else (0.06, 0.08, 0.08), 0.03)
    out = composite(out, shade, dark)
    out = composite(out, rng.near_colour((0.96, 0.95, 0.92), 0.03), white)
    return composite(out, shade, xdog_lines(light, 0.6 * u, 8, 0.12, 0.25) * 0.8).clamp(0, 1)

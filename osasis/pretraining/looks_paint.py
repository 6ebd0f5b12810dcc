"""Looks of brush and hand: oil, watercolour, pastel, mosaic, charcoal, chalk, pencil."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from osasis.pretraining.looks_print import CREAMS, WHITES
from osasis.pretraining.looks_tools import (
    Colour,
    Dice,
    blur,
    cells,
    clouds,
    contours,
    contrast,
    edges,
    flatten_cells,
    flow,
    gradient,
    grain,
    kuwahara,
    lay,
    paper,
    saturate,
    smear,
    step,
    stretch,
    stripes,
    tone,
    unit,
    vignette,
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


def _features(photo: Tensor) -> Tensor:
    """What a painter restates at the end: the small darks and lights of eyes and mouth."""
    light = tone(photo)
    u = unit(photo)
    return blur(light, 0.35 * u) - blur(light, 1.8 * u)


def oil(photo: Tensor, dice: Dice) -> Tensor:
    """An old master: dabs along the form, warm varnish, the background sunk into its ground."""
    u = unit(photo)
    dabs = kuwahara(photo, max(1, round(dice.uniform(0.6, 1.2) * u)))
    light = stretch(tone(dabs))
    field = flow(light, 1.5 * u)
    dabs = smear(dabs, field, dice.uniform(0.6, 1.6) * u)
    dabs = (dabs + dice.uniform(0.5, 1.0) * _features(photo)).clamp(0, 1)
    bristle = smear(grain(photo, dice, 0.8 * u), field, 4 * u)
    dabs = contrast(saturate(dabs, dice.uniform(0.9, 1.6)), dice.uniform(1.0, 1.35))
    glaze = dabs * paper(photo, dice.near(dice.pick(VARNISHES), 0.05))
    around = 1 - vignette(photo, 1.0, (0.5, 0.48))
    sunk = lay(glaze, dice.near(dice.pick(GROUNDS), 0.04), step(around, 0.38, 0.5) * 0.9)
    ridge = gradient(blur(bristle, 0.3 * u))[1]
    return (sunk * (1 + 0.05 * bristle) + dice.uniform(0.02, 0.08) * ridge).clamp(0, 1)


def impasto(photo: Tensor, dice: Dice) -> Tensor:
    """Thick bright strokes in swirls, as the post-impressionists laid them."""
    u = unit(photo)
    base = saturate(contrast(photo, 1.15), dice.uniform(1.5, 2.3))
    field = flow(stretch(tone(blur(photo, u))), 2.0 * u)
    tint = 0.13 * grain(photo, dice, 1.6 * u, 3)
    strokes = smear((base + tint).clamp(0, 1), field, dice.uniform(1.6, 3.2) * u, 5)
    strokes = (strokes + dice.uniform(0.8, 1.2) * _features(photo)).clamp(0, 1)
    height = smear(grain(photo, dice, 1.1 * u), field, 5 * u, 5)
    height = height / height.std().clamp_min(1e-4)
    dx, dy = gradient(height)
    relief = dice.uniform(0.05, 0.11) * (dx + dy)
    cool = dice.near(dice.pick(((0.9, 0.95, 1.1), (1.08, 1.0, 0.85), (1.0, 1.03, 0.9))), 0.05)
    return (contrast(strokes, 1.2) * paper(photo, cool) + relief).clamp(0, 1)


def watercolour(photo: Tensor, dice: Dice) -> Tensor:
    """Thin washes on white paper that pool at their borders."""
    u = unit(photo)
    wet = kuwahara(blur(photo, 0.4 * u), max(1, round(dice.uniform(1.0, 2.0) * u)))
    wet = (wet + dice.uniform(0.5, 1.1) * _features(photo)).clamp(0, 1)
    wash = saturate(wet, dice.uniform(1.2, 1.9))
    pale = dice.uniform(0.55, 0.8)
    density = (1 - wash) * pale * (1 + dice.uniform(0.12, 0.25) * clouds(photo, dice, 9 * u))
    pool = edges(tone(wet), 0.5 * u)
    density = density * (1 + dice.uniform(0.3, 0.7) * pool) * (1 + 0.07 * grain(photo, dice, u))
    border = vignette(photo, 1.0) + 0.07 * clouds(photo, dice, 10 * u)
    density = density * step(border, dice.uniform(0.15, 0.45), 0.3)
    sheet = paper(photo, dice.pick(((1.0, 1.0, 1.0), (0.99, 0.98, 0.95))))
    return (sheet - density.clamp(0, 1)).clamp(0, 1)


def gouache(photo: Tensor, dice: Dice) -> Tensor:
    """Flat opaque paint in few, slightly chalky colours."""
    u = unit(photo)
    index, _ = cells(photo, dice, dice.uniform(1.8, 2.8) * u, 0.9)
    flat = kuwahara(flatten_cells(photo, index), max(1, round(1.2 * u)))
    flat = (flat + dice.uniform(0.6, 1.1) * _features(photo)).clamp(0, 1)
    levels = dice.uniform(5, 8)
    flat = lay(flat, (flat * levels).round() / levels, torch.full_like(flat[:1], 0.7))
    chalky = saturate(flat, dice.uniform(0.9, 1.5)) * 0.85 + 0.1
    tint = paper(photo, dice.near(dice.pick(((1.0, 0.96, 0.9), (0.95, 1.0, 1.0))), 0.04))
    return (chalky * tint + 0.015 * clouds(photo, dice, 3 * u)).clamp(0, 1)


def pastel(photo: Tensor, dice: Dice) -> Tensor:
    """Soft crayons: light colours dragged over rough paper."""
    u = unit(photo)
    soft = blur(photo, 0.5 * u)
    colours = saturate(soft, dice.uniform(1.3, 2.0)) * dice.uniform(0.6, 0.75) + 0.3
    angle = dice.uniform(0.4, 1.2)
    field = (
        torch.full_like(photo[:1], math.cos(angle)),
        torch.full_like(photo[:1], math.sin(angle)),
    )
    tooth = smear(grain(photo, dice, 0.8 * u), field, 2.5 * u)
    sheet = dice.near(dice.pick(((0.85, 0.80, 0.72), (0.55, 0.58, 0.62), (0.95, 0.9, 0.85))))
    cover = step(tooth / tooth.std().clamp_min(1e-4), dice.uniform(-1.0, -0.4), 2.0)
    return lay(paper(photo, sheet), colours.clamp(0, 1), cover * dice.uniform(0.85, 1.0))


def pointillism(photo: Tensor, dice: Dice) -> Tensor:
    """Round dots of purer colours side by side, in three layers."""
    u = unit(photo)
    strong = saturate(contrast(blur(photo, 0.5 * u), 1.15), dice.uniform(1.3, 2.0))
    out = lay(strong, dice.pick(WHITES + CREAMS), torch.full_like(photo[:1], 0.35))
    size = dice.uniform(1.5, 2.4) * u
    vivid = dice.uniform(0.06, 0.14)
    for _ in range(3):
        index, border = cells(photo, dice, size, 0.9)
        colour = flatten_cells(strong, index)
        jitter = vivid * dice.randn(3, int(index.max()) + 1)
        colour = (colour + jitter[:, index.flatten()].view_as(photo)).clamp(0, 1)
        out = lay(out, colour, step(border, 0.22, 0.25))
        size *= 0.85
    return out


def mosaic(photo: Tensor, dice: Dice) -> Tensor:
    """Stone tiles with dark or light joints."""
    u = unit(photo)
    index, border = cells(photo, dice, dice.uniform(2.2, 3.4) * u, dice.uniform(0.25, 0.7))
    strong = saturate(contrast(photo, 1.25), dice.uniform(1.1, 1.7))
    tiles = flatten_cells(strong, index)
    jitter = 0.05 * dice.randn(1, int(index.max()) + 1)
    tiles = (tiles + jitter[:, index.flatten()].view(1, *photo.shape[-2:])).clamp(0, 1)
    joint = dice.near(dice.pick(((0.12, 0.11, 0.1), (0.35, 0.3, 0.25), (0.88, 0.85, 0.78))))
    return lay(tiles, joint, 1 - step(border, dice.uniform(0.12, 0.22), 0.15))


def stained_glass(photo: Tensor, dice: Dice) -> Tensor:
    """Glowing panes between leads."""
    u = unit(photo)
    index, border = cells(photo, dice, dice.uniform(3.6, 5.2) * u, 0.95)
    panes = saturate(contrast(flatten_cells(photo, index), 1.3), dice.uniform(2.0, 3.2))
    panes = panes * 0.8 + 0.25 * saturate(photo, 2.0)
    light = stretch(tone(photo))
    lead = 1 - step(border, dice.uniform(0.1, 0.16), 0.12)
    lead = torch.maximum(lead, contours(light, 0.8 * u, 7, 0.12, 0.15))
    glow = 0.9 + 0.15 * clouds(photo, dice, 14 * u)
    return lay((panes * glow).clamp(0, 1), dice.near((0.05, 0.05, 0.06), 0.03), lead)


def tapestry(photo: Tensor, dice: Dice) -> Tensor:
    """Wool stitches in muted, dyed colours."""
    u = unit(photo)
    dyed = saturate(contrast(blur(photo, 0.5 * u), 1.1), dice.uniform(0.9, 1.5))
    levels = dice.uniform(4, 7)
    dyed = (dyed * levels).round() / levels
    period = dice.uniform(1.9, 2.6) * u
    thread = torch.minimum(stripes(photo, period, 0.75), stripes(photo, period, -0.75))
    wool = 0.72 + 0.4 * thread + 0.06 * grain(photo, dice, 0.8 * u)
    tint = paper(photo, dice.near(dice.pick(((0.95, 0.85, 0.7), (0.85, 0.9, 0.8))), 0.05))
    return ((dyed * 0.85 + 0.08) * wool * tint).clamp(0, 1)


def charcoal(photo: Tensor, dice: Dice) -> Tensor:
    """Smudged black on grainy paper."""
    u = unit(photo)
    light = contrast(stretch(tone(photo)), dice.uniform(1.1, 1.5), 0.45)
    angle = dice.uniform(0.5, 1.1)
    field = (torch.full_like(light, math.cos(angle)), torch.full_like(light, -math.sin(angle)))
    tooth = smear(grain(photo, dice, 0.7 * u), field, dice.uniform(1.5, 4) * u)
    tooth = tooth / tooth.std().clamp_min(1e-4)
    shade = 1 - blur(light, 0.7 * u)
    mask = step(shade + dice.uniform(0.10, 0.2) * tooth, dice.uniform(0.45, 0.6), 0.7)
    lines = contours(light, 0.6 * u, dice.uniform(5, 10), 0.18, 0.3)
    sheet = dice.near(dice.pick(WHITES + CREAMS + ((0.8, 0.78, 0.74),)), 0.03)
    colour = dice.near((0.09, 0.085, 0.08), 0.04)
    return lay(paper(photo, sheet), colour, torch.maximum(mask * 0.95, lines * 0.9))


def pencil(photo: Tensor, dice: Dice) -> Tensor:
    """Graphite: pale slanting strokes and soft outlines."""
    u = unit(photo)
    light = stretch(tone(photo))
    field_angle = dice.uniform(0.6, 1.1)
    field = (
        torch.full_like(light, math.cos(field_angle)),
        torch.full_like(light, -math.sin(field_angle)),
    )
    stroke = smear(grain(photo, dice, 0.6 * u), field, 4 * u, 5)
    stroke = stroke / stroke.std().clamp_min(1e-4)
    shade = (1 - light) * dice.uniform(0.5, 0.75)
    mask = (shade * (1 + 0.3 * stroke)).clamp(0, 1)
    dodge = (1 - light / blur(light, 2.2 * u).clamp_min(0.05)).clamp(0, 1) * dice.uniform(1.6, 2.6)
    sheet = dice.pick(WHITES + CREAMS[2:])
    colour = dice.near(dice.pick(((0.2, 0.2, 0.22), (0.2, 0.2, 0.22), (0.5, 0.2, 0.14))), 0.04)
    return lay(paper(photo, sheet), colour, torch.maximum(mask, dodge.clamp(0, 0.95)))


def hatching(photo: Tensor, dice: Dice) -> Tensor:
    """Layers of crossed lines, one more for every darker shade."""
    u = unit(photo)
    light = blur(contrast(stretch(tone(photo)), 1.15), 0.4 * u)
    period = dice.uniform(1.6, 2.4) * u
    start = dice.uniform(0, math.pi)
    wobble = 0.25 * clouds(photo, dice, 10 * u)
    mask = torch.zeros_like(light)
    for i, cut in enumerate((0.75, 0.55, 0.36, 0.2)):
        line = stripes(photo, period, start + i * math.pi / 4, wobble, phase=0.3 * i)
        mask = torch.maximum(mask, (1 - step(line, 0.42, 0.4)) * (1 - step(light, cut, 0.15)))
    lines = contours(light, 0.5 * u, dice.uniform(8, 14), 0.2, 0.2)
    inks: tuple[Colour, ...] = ((0.08, 0.07, 0.07), (0.25, 0.15, 0.08), (0.1, 0.12, 0.32))
    sheet = paper(photo, dice.pick(WHITES + CREAMS))
    return lay(sheet, dice.near(dice.pick(inks), 0.04), torch.maximum(mask, lines))


def chalk(photo: Tensor, dice: Dice) -> Tensor:
    """Coloured paper, dark chalk for the shades and white for the lights."""
    u = unit(photo)
    light = stretch(tone(photo))
    tooth = grain(photo, dice, 0.8 * u)
    sheets: tuple[Colour, ...] = (
        (0.62, 0.60, 0.54),
        (0.45, 0.50, 0.55),
        (0.70, 0.58, 0.44),
        (0.40, 0.42, 0.36),
        (0.16, 0.20, 0.19),
    )
    sheet = dice.near(dice.pick(sheets), 0.04)
    out = paper(photo, sheet) * (1 + 0.03 * tooth)
    rough = light + dice.uniform(0.05, 0.12) * tooth
    dark = (1 - step(rough, dice.uniform(0.28, 0.4), 0.45)) * dice.uniform(0.6, 0.9)
    white = step(rough, dice.uniform(0.66, 0.8), 0.4) * dice.uniform(0.6, 0.95)
    reds: tuple[Colour, ...] = ((0.12, 0.10, 0.10), (0.45, 0.16, 0.09))
    ground = sum(sheet) / 3
    shade = dice.near(dice.pick(reds) if ground > 0.3 else (0.06, 0.08, 0.08), 0.03)
    out = lay(out, shade, dark)
    out = lay(out, dice.near((0.96, 0.95, 0.92), 0.03), white)
    return lay(out, shade, contours(light, 0.6 * u, 8, 0.12, 0.25) * 0.8).clamp(0, 1)

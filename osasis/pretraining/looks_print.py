"""Looks of the press: ink, engraving, woodcut, halftone, photographs, screen prints."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from osasis.pretraining.looks_tools import (
    Colour,
    Dice,
    blur,
    clouds,
    contours,
    contrast,
    edges,
    flow,
    grain,
    kuwahara,
    lay,
    paper,
    ramp,
    saturate,
    smear,
    step,
    stretch,
    stripes,
    tone,
    unit,
    vignette,
)

WHITES: tuple[Colour, ...] = ((1.0, 1.0, 1.0), (0.98, 0.97, 0.94), (0.95, 0.91, 0.82))
CREAMS: tuple[Colour, ...] = ((0.95, 0.90, 0.78), (0.90, 0.84, 0.70), (0.96, 0.94, 0.88))
INKS: tuple[Colour, ...] = ((0.04, 0.04, 0.05), (0.13, 0.10, 0.08), (0.08, 0.10, 0.22))


def ink(photo: Tensor, dice: Dice) -> Tensor:
    """Bold brush and ink: black shapes and lines on white."""
    u = unit(photo)
    light = stretch(tone(photo))
    mask = contours(
        light, dice.uniform(0.7, 1.1) * u, dice.uniform(4, 9), dice.uniform(0.32, 0.5), 0.12
    )
    return lay(paper(photo, dice.pick(WHITES)), dice.near(dice.pick(INKS), 0.03), mask)


def pen(photo: Tensor, dice: Dice) -> Tensor:
    """Thin pen lines on paper, with a light wash at times."""
    u = unit(photo)
    light = stretch(tone(photo))
    wash = dice.uniform(0, 0.35) if dice.chance(0.5) else 0.0
    mask = contours(
        light, dice.uniform(0.45, 0.7) * u, dice.uniform(12, 22), dice.uniform(0.1, 0.25), 0.2
    )
    colour = dice.near(dice.pick(((0.1, 0.1, 0.12), (0.3, 0.18, 0.1), (0.1, 0.14, 0.36))), 0.04)
    sheet = lay(paper(photo, dice.pick(WHITES + CREAMS)), colour, wash * (1 - blur(light, u)))
    return lay(sheet, colour, mask)


def engraving(photo: Tensor, dice: Dice) -> Tensor:
    """Copper plate: parallel lines that swell with the shade and bend with the form."""
    u = unit(photo)
    light = contrast(stretch(tone(photo)), dice.uniform(1.0, 1.4), 0.45)
    period = dice.uniform(1.5, 2.6) * u
    angle = dice.uniform(-math.pi / 3, math.pi / 3)
    bend = dice.uniform(0.8, 2.2) * blur(light, 2.5 * u)
    shade = 1 - blur(light, 0.4 * u)
    width = (shade * dice.uniform(1.0, 1.25) - 0.08).clamp(0, 1)
    mask = 1 - step(stripes(photo, period, angle, bend), width, 0.35)
    if dice.chance(0.6):
        other = stripes(photo, period, angle + dice.uniform(0.6, 1.4), bend)
        mask = torch.maximum(mask, 1 - step(other, (2 * width - 1).clamp(0, 1), 0.35))
    lines = contours(light, 0.5 * u, dice.uniform(6, 12), 0.15, 0.2)
    sheet = paper(photo, dice.near(dice.pick(CREAMS + WHITES), 0.03))
    return lay(sheet, dice.near(dice.pick(INKS), 0.04), torch.maximum(mask, lines))


def woodcut(photo: Tensor, dice: Dice) -> Tensor:
    """Carved wood: broad black with white cuts that follow the form."""
    u = unit(photo)
    light = contrast(stretch(tone(photo)), 1.3)
    field = flow(light, 3 * u)
    cuts = smear(grain(photo, dice, 1.3 * u), field, dice.uniform(4, 7) * u, 5)
    cuts = cuts / cuts.std().clamp_min(1e-4)
    rough = light + dice.uniform(0.10, 0.2) * cuts
    mask = contours(rough, 0.5 * u, dice.uniform(2, 4), dice.uniform(0.4, 0.55), 0.15)
    pairs: tuple[tuple[Colour, Colour], ...] = (
        ((0.05, 0.05, 0.05), (0.95, 0.92, 0.85)),
        ((0.35, 0.08, 0.06), (0.94, 0.88, 0.74)),
        ((0.07, 0.2, 0.22), (0.9, 0.9, 0.8)),
        ((0.2, 0.12, 0.06), (0.86, 0.72, 0.45)),
    )
    black, sheet = pairs[int(dice.uniform(0, len(pairs) - 1e-6))]
    return lay(paper(photo, dice.near(sheet)), dice.near(black, 0.03), mask)


def halftone(photo: Tensor, dice: Dice) -> Tensor:
    """Newspaper dots, in black or in printing colours."""
    u = unit(photo)
    period = dice.uniform(2.0, 3.6) * u
    colour = dice.chance(0.5)
    angle = dice.uniform(0.2, 1.2)
    sheet = paper(photo, dice.pick(WHITES + CREAMS))
    soft = blur(photo, 0.3 * u)
    if not colour:
        dark = 1 - contrast(stretch(tone(soft)), 1.1)
        return lay(sheet, dice.near(dice.pick(INKS), 0.06), _dots(photo, period, angle, dark))
    strong = saturate(contrast(soft, 1.2), dice.uniform(1.3, 2.0))
    out = sheet
    inks: tuple[Colour, ...] = ((0.0, 0.62, 0.88), (0.88, 0.05, 0.5), (0.98, 0.88, 0.05))
    for i, plate in enumerate(inks):
        dots = _dots(photo, period, angle + 0.5 * i, 1 - strong[i : i + 1])
        out = out * lay(torch.ones_like(photo), plate, dots)
    return out


def _dots(x: Tensor, period: float, angle: float, dark: Tensor) -> Tensor:
    """Round dots whose area grows with ``dark``; 1 where there is ink."""
    a = stripes(x, period, angle)
    b = stripes(x, period, angle + math.pi / 2)
    hill = 0.5 + 0.25 * (torch.cos(math.pi * a) + torch.cos(math.pi * b))
    return step(dark.clamp(0.02, 0.98), 1 - hill, 0.35)


def sepia(photo: Tensor, dice: Dice) -> Tensor:
    """An old photograph: one brown, faded and grained."""
    u = unit(photo)
    light = contrast(blur(stretch(tone(photo)), dice.uniform(0, 0.6) * u), dice.uniform(0.7, 1.05))
    if dice.chance(0.7):
        light = light * vignette(photo, dice.uniform(-0.4, 0.5))
    light = (light + dice.uniform(0.0, 0.05) * grain(photo, dice, u)).clamp(0, 1)
    dark = dice.near((0.18, 0.11, 0.06), 0.07)
    middle = dice.near((0.58, 0.45, 0.30), 0.07)
    sheet = dice.near((0.93, 0.86, 0.70), 0.06)
    return ramp(light, (dark, middle, sheet))


def silver(photo: Tensor, dice: Dice) -> Tensor:
    """A black-and-white photograph."""
    u = unit(photo)
    light = contrast(stretch(tone(photo)), dice.uniform(0.9, 1.5), dice.uniform(0.4, 0.6))
    light = light * vignette(photo, dice.uniform(0, 0.5))
    light = (light + dice.uniform(0.0, 0.06) * grain(photo, dice, 0.7 * u)).clamp(0, 1)
    tint = dice.uniform(-0.03, 0.03)
    return ramp(light, ((0.02, 0.02, 0.03), (0.97 + tint, 0.96, 0.96 - tint)))


def cyanotype(photo: Tensor, dice: Dice) -> Tensor:
    """A sun print in Prussian blue."""
    u = unit(photo)
    light = contrast(stretch(tone(photo)), dice.uniform(0.9, 1.3))
    light = (light + 0.04 * clouds(photo, dice, 8 * u)).clamp(0, 1)
    sheet = dice.near((0.93, 0.95, 0.93), 0.04)
    return ramp(light, (dice.near((0.03, 0.10, 0.26)), dice.near((0.22, 0.42, 0.66)), sheet))


PALETTES: tuple[tuple[Colour, ...], ...] = (
    ((0.06, 0.18, 0.28), (0.75, 0.17, 0.15), (0.45, 0.62, 0.66), (0.97, 0.90, 0.70)),
    ((0.10, 0.06, 0.20), (0.55, 0.12, 0.45), (0.98, 0.45, 0.35), (1.0, 0.88, 0.55)),
    ((0.08, 0.14, 0.10), (0.16, 0.42, 0.33), (0.62, 0.74, 0.42), (0.97, 0.94, 0.80)),
    ((0.05, 0.05, 0.07), (0.30, 0.28, 0.34), (0.86, 0.55, 0.20), (0.98, 0.92, 0.82)),
    ((0.10, 0.12, 0.35), (0.10, 0.48, 0.72), (0.95, 0.62, 0.68), (0.99, 0.95, 0.86)),
    ((0.20, 0.07, 0.05), (0.62, 0.24, 0.10), (0.90, 0.62, 0.28), (0.99, 0.93, 0.75)),
)


def posterised(photo: Tensor, dice: Dice) -> Tensor:
    """Flat shapes in a few poster colours, by lightness."""
    u = unit(photo)
    smooth = kuwahara(blur(photo, 0.4 * u), max(1, round(1.6 * u)))
    light = stretch(tone(smooth))
    colours = [dice.near(c) for c in PALETTES[int(dice.uniform(0, len(PALETTES) - 1e-6))]]
    out = paper(photo, colours[0])
    shift = dice.uniform(-0.06, 0.06)
    for i, colour in enumerate(colours[1:]):
        out = lay(out, colour, step(light, (i + 1) / len(colours) + shift, 0.05))
    return out


def pop(photo: Tensor, dice: Dice) -> Tensor:
    """Pop art: loud flat colours, black outlines, dots in the shades."""
    u = unit(photo)
    smooth = kuwahara(photo, max(1, round(1.4 * u)))
    loud = saturate(contrast(smooth, 1.35), dice.uniform(1.8, 2.8))
    levels = 3.0 + dice.uniform(0, 2)
    flat = (loud * levels).round() / levels
    light = stretch(tone(smooth))
    shade = _dots(photo, dice.uniform(2.0, 3.0) * u, 0.8, 0.75 * (1 - light))
    flat = lay(flat, flat * dice.uniform(0.5, 0.8), shade)
    lines = contours(light, 0.7 * u, dice.uniform(6, 10), 0.16, 0.15)
    return lay(flat, (0.03, 0.02, 0.05), lines)


def risograph(photo: Tensor, dice: Dice) -> Tensor:
    """Two loud inks, printed a little out of register."""
    u = unit(photo)
    pairs: tuple[tuple[Colour, Colour], ...] = (
        ((1.0, 0.33, 0.40), (0.0, 0.36, 0.65)),
        ((1.0, 0.72, 0.1), (0.23, 0.16, 0.42)),
        ((0.1, 0.68, 0.55), (0.6, 0.1, 0.3)),
        ((1.0, 0.42, 0.2), (0.05, 0.28, 0.25)),
    )
    first, second = pairs[int(dice.uniform(0, len(pairs) - 1e-6))]
    light = stretch(tone(photo))
    sheet = dice.pick(WHITES + CREAMS)
    speck = 0.13 * grain(photo, dice, 0.8 * u)
    moved = torch.roll(
        light, (round(dice.uniform(-1, 1) * u), round(dice.uniform(0, 1) * u)), (1, 2)
    )
    soft = step(1 - moved + speck, 0.35, 0.7) * 0.9
    dark = step(1 - light + speck, dice.uniform(0.55, 0.65), 0.25)
    out = lay(paper(photo, sheet), dice.near(first), soft)
    return out * lay(torch.ones_like(photo), dice.near(second), dark)


def blueprint(photo: Tensor, dice: Dice) -> Tensor:
    """White lines on drafting blue, over a faint grid."""
    u = unit(photo)
    light = stretch(tone(photo))
    blue = dice.near((0.06, 0.20, 0.46), 0.05)
    sheet = paper(photo, blue) * (1 + 0.04 * clouds(photo, dice, 16 * u))
    period = dice.uniform(6, 10) * u
    grid = torch.minimum(stripes(photo, period, 0.0), stripes(photo, period, math.pi / 2))
    sheet = lay(sheet, (0.75, 0.85, 1.0), 0.25 * (1 - step(grid, 1.2 * u / period, 0.1)))
    wash = dice.uniform(0.05, 0.3) * blur(light, 0.6 * u)
    lines = contours(light, dice.uniform(0.5, 0.75) * u, dice.uniform(14, 22), 0.25, 0.2)
    return lay(sheet, (0.93, 0.96, 1.0), torch.maximum(wash, 0.95 * lines)).clamp(0, 1)


def neon(photo: Tensor, dice: Dice) -> Tensor:
    """Glowing tubes along the edges, in the dark."""
    u = unit(photo)
    strength = edges(stretch(tone(photo)), dice.uniform(0.6, 0.9) * u)
    tube = step(strength, dice.uniform(0.22, 0.32), 0.25) * strength.clamp_min(0.4)
    hues: tuple[Colour, ...] = ((1.0, 0.15, 0.65), (0.1, 0.85, 1.0), (0.55, 0.3, 1.0))
    hues += ((0.2, 1.0, 0.5), (1.0, 0.55, 0.1))
    one, two = dice.pick(hues), dice.pick(hues)
    where = step(clouds(photo, dice, 28 * u), 0.0, 1.0)
    colour = lay(paper(photo, one), two, where)
    glow = blur(tube, 1.6 * u) * 1.1 + blur(tube, 4.5 * u) * 0.9
    night = paper(photo, dice.near((0.03, 0.02, 0.07), 0.02)) + 0.10 * photo
    return (night + colour * glow + 0.75 * tube).clamp(0, 1)

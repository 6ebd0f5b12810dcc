"""Captions of photos and painted photos, from templates and properties of the pixels.

Captions state the medium, lightness, colourfulness, prevailing hue and background. They do not
describe the person, whose attributes are unknown.
"""

from __future__ import annotations

import colorsys
from typing import TypedDict

import torch
from torch import Tensor

from osasis.looks import LOOKS

PHOTO = ("photo", "photograph", "portrait photo", "colour photo")

MEDIA: dict[str, tuple[str, ...]] = {
    "oil": ("oil painting", "old master painting"),
    "impasto": ("impasto painting", "thick painting with swirling strokes"),
    "watercolour": ("watercolour", "watercolour painting"),
    "gouache": ("gouache", "gouache painting"),
    "pastel": ("pastel", "pastel drawing"),
    "pointillism": ("pointillist painting", "painting of small dots"),
    "mosaic": ("mosaic", "stone mosaic"),
    "stained-glass": ("stained glass window", "stained glass picture"),
    "tapestry": ("tapestry", "woven tapestry"),
    "charcoal": ("charcoal drawing", "charcoal sketch"),
    "pencil": ("pencil drawing", "pencil sketch"),
    "hatching": ("cross hatching", "drawing in crossed lines"),
    "chalk": ("chalk drawing", "chalk sketch"),
    "ink": ("ink drawing", "bold ink drawing"),
    "pen": ("pen drawing", "line drawing"),
    "engraving": ("engraving", "copper engraving"),
    "woodcut": ("woodcut", "woodcut print"),
    "halftone": ("halftone print", "newspaper print"),
    "sepia": ("sepia photograph", "old brown photograph"),
    "silver": ("black and white photo", "black and white photograph"),
    "cyanotype": ("cyanotype", "blue sun print"),
    "posterised": ("poster", "posterised picture"),
    "pop": ("pop art picture", "comic picture"),
    "risograph": ("risograph print", "two colour print"),
    "blueprint": ("blueprint", "blueprint drawing"),
    "neon": ("neon picture", "glowing neon sign"),
}

SUBJECTS = ("a person", "a face", "somebody", "a human face", "the head of a person")
HUES = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
TONES = ("very dark", "dark", "bright", "very bright", "colourful", "pale", "grey")
BACKGROUNDS = ("dark", "light", *HUES)
# Vocabulary for users' texts beyond the words of captions.
FUNCTION_WORDS = ("a", "an", "the", "of", "in", "on", "with", "and", "background", "portrait")


class Appearance(TypedDict, total=False):
    """Words of TONES, HUES and BACKGROUNDS; a property that is not distinct is absent."""

    tone: str
    hue: str
    background: str


def measure_appearance(picture: Tensor) -> Appearance:
    """Describe an image (3, H, W) in [-1, 1] from the means of its pixels."""
    x = (picture.float() / 2 + 0.5).clamp(0, 1)
    found: Appearance = {}
    light = float(x.mean())
    spread = float((x.amax(0) - x.amin(0)).mean())
    if light < 0.32:
        found["tone"] = "very dark" if light < 0.2 else "dark"
    elif light > 0.66:
        found["tone"] = "very bright" if light > 0.8 else "bright"
    elif spread > 0.38:
        found["tone"] = "colourful"
    elif spread < 0.06:
        found["tone"] = "grey"
    if hue := _hue(x.mean(dim=(1, 2)), 0.12):
        found["hue"] = hue
    h, w = x.shape[1:]
    # The upper corners of an aligned portrait show only background.
    corners = torch.cat([x[:, : h // 3, : w // 8], x[:, : h // 3, -(w // 8) :]], dim=2)
    colour = corners.mean(dim=(1, 2))
    if float(colour.mean()) < 0.25:
        found["background"] = "dark"
    elif float(colour.mean()) > 0.75:
        found["background"] = "light"
    elif hue := _hue(colour, 0.2):
        found["background"] = hue
    return found


def _hue(colour: Tensor, min_chroma: float) -> str | None:
    """Name of an RGB colour's hue, or None below ``min_chroma``."""
    r, g, b = (float(c) for c in colour)
    if max(r, g, b) - min(r, g, b) < min_chroma:
        return None
    degrees = colorsys.rgb_to_hsv(r, g, b)[0] * 360
    ends = (15, 42, 70, 165, 195, 255, 295, 345)
    return next((name for name, end in zip(HUES, ends, strict=True) if degrees < end), "red")


def make_caption(look: str | None, measured: Appearance, g: torch.Generator) -> str:
    """A random caption. look: None for a photo. Each measured word is used with probability 0.6."""

    def draw(options: tuple[str, ...]) -> str:
        return options[int(torch.randint(len(options), (), generator=g))]

    def keep() -> bool:
        return bool(torch.rand((), generator=g) < 0.6)

    properties = (measured.get("tone"), measured.get("hue"))
    words = [word for word in properties if word and keep()]
    words.append(draw(PHOTO if look is None else MEDIA[look]))
    text = f"{_with_article(' '.join(words))} of {draw(SUBJECTS)}"
    if "background" in measured and keep():
        text += f" on {_with_article(measured['background'])} background"
    return text


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def vocabulary() -> list[str]:
    """All words of captions and users' texts, sorted."""
    phrases = [*PHOTO, *SUBJECTS, *HUES, *TONES, *BACKGROUNDS, *FUNCTION_WORDS]
    phrases += [p for name in LOOKS for p in MEDIA[name]]
    return sorted({word for phrase in phrases for word in phrase.split()})

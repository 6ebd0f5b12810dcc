"""Compositing of stylized squares into the photo; the output has the size of the photo."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from osasis.images.geometry import Box, Size, SquarePlacement, crop_box, pad_box
from osasis.images.guided_filter import (
    ColourChange,
    apply_colour_change,
    fit_colour_change,
    paste_square,
)
from osasis.images.tensors import image_to_tensor

# Width of the blend at the border of a face, as a share of half the square's side.
FEATHER = 0.35
# Width of the blend at the border of a cropped square, as a share of its side.
SEAM = 1 / 8


def photo_needed(photo: Size, fit: str, detail: bool, box: Box | None = None) -> str:
    """Which copy of the photo ``composite_into_photo`` needs.

    "": only its size. "small": ``downscaled_photo``. "whole": the photo at its own resolution.
    """
    if detail or fit == "align":
        return "whole"
    return "small" if fit == "crop" and not _covers(box, photo) else ""


def _covers(box: Box | None, photo: Size) -> bool:
    """Whether a box, by default the central square, is the whole photo."""
    left, top, side = box or crop_box(photo)
    return (left, top, side, side) == (0, 0, *photo)


def downscaled_photo(photo: Image.Image, square: int) -> Image.Image:
    """The photo scaled down to a short side of ``square`` pixels; a smaller photo is unchanged."""
    scale = square / min(photo.size)
    if scale >= 1:
        return photo
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    return photo.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def composite_into_photo(
    size: Size,
    fit: str,
    places: Sequence[SquarePlacement],
    squares: Sequence[Image.Image],
    stylized: Sequence[Image.Image],
    *,
    photo: Image.Image | None = None,
    detail: bool = False,
    box: Box | None = None,
) -> Image.Image:
    """The photo of width and height ``size`` with its square, or its faces ("align"), stylized.

    squares, stylized: the base's input and output for each of the places. photo: the copy that
    ``photo_needed`` names. detail: apply the change at the photo's resolution by a guided filter;
    otherwise the stylized square is enlarged. box: the square of fit "crop"; None: the central one.
    """
    if fit == "align":
        return _composite_faces(_require(photo), places, squares, stylized, detail)
    (place,), (before,), (after,) = places, squares, stylized
    if detail:
        return apply_colour_change(_require(photo), _colour_change(before, after), place)
    if fit == "pad":
        (left, top), (w, h) = pad_box(size, after.width)
        after = after.crop((left, top, left + w, top + h))
    if fit == "crop" and not _covers(box, size):
        return _composite_crop(_require(photo), size, box or crop_box(size), place, before, after)
    return _resized(after, size)


def _composite_crop(
    small: Image.Image,
    size: Size,
    box: Box,
    place: SquarePlacement,
    before: Image.Image,
    after: Image.Image,
) -> Image.Image:
    """Paste the stylized square into its box; the rest gets the square's colour change."""
    x, y = small.width / size[0], small.height / size[1]
    around = apply_colour_change(small, _colour_change(before, after), place.scaled(x, y))
    whole = _resized(around, size)
    left, top, side = box
    whole.paste(_resized(after, (side, side)), (left, top), _seam(size, box))
    return whole


def _seam(photo: Size, box: Box) -> Image.Image:
    """Blending mask ("L") of a square, which fades towards the photo around it."""
    left, top, side = box
    width = max(1, round(side * SEAM))
    x = ((np.arange(side) + 0.5) / width).clip(max=1)
    fade = x * x * (3 - 2 * x)
    across, down = np.ones(side), np.ones(side)
    for line, begin, end in ((across, left, photo[0]), (down, top, photo[1])):
        if begin > 0:
            line *= fade
        if begin + side < end:
            line *= fade[::-1]
    return Image.fromarray((down[:, None] * across * 255).round().astype(np.uint8))


def _composite_faces(
    photo: Image.Image,
    places: Sequence[SquarePlacement],
    squares: Sequence[Image.Image],
    stylized: Sequence[Image.Image],
    detail: bool,
) -> Image.Image:
    for place, before, after in zip(places, squares, stylized, strict=True):
        if detail:
            photo = apply_colour_change(
                photo, _colour_change(before, after), place, feather=FEATHER
            )
        else:
            photo = paste_square(photo, image_to_tensor(after), place, feather=FEATHER)
    return photo


def _colour_change(before: Image.Image, after: Image.Image) -> ColourChange:
    return fit_colour_change(image_to_tensor(before), image_to_tensor(after))


def _resized(image: Image.Image, size: Size) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def _require(photo: Image.Image | None) -> Image.Image:
    if photo is None:
        raise ValueError("photo is None; this fit needs it (see photo_needed)")
    return photo

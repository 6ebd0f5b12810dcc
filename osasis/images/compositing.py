"""Compositing of stylized squares into the photo; the output has the size of the photo."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from osasis.images.geometry import Size, SquarePlacement, crop_box, pad_box
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


def photo_needed(photo: Size, fit: str, detail: bool) -> str:
    """Which copy of the photo ``composite_into_photo`` needs.

    "": only its size. "small": ``downscaled_photo``. "whole": the photo at its own resolution.
    """
    if detail or fit == "align":
        return "whole"
    return "small" if fit == "crop" and photo[0] != photo[1] else ""


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
) -> Image.Image:
    """The photo of width and height ``size`` with its square, or its faces ("align"), stylized.

    squares, stylized: the base's input and output for each of the places. photo: the copy that
    ``photo_needed`` names. detail: apply the change at the photo's resolution by a guided filter;
    otherwise the stylized square is enlarged.
    """
    if fit == "align":
        return _composite_faces(_require(photo), places, squares, stylized, detail)
    (place,), (before,), (after,) = places, squares, stylized
    if detail:
        return apply_colour_change(_require(photo), _colour_change(before, after), place)
    if fit == "pad":
        (left, top), (w, h) = pad_box(size, after.width)
        after = after.crop((left, top, left + w, top + h))
    if fit == "crop" and size[0] != size[1]:
        return _composite_crop(size, _require(photo), place, before, after)
    return _resized(after, size)


def _composite_crop(
    size: Size, small: Image.Image, place: SquarePlacement, before: Image.Image, after: Image.Image
) -> Image.Image:
    """Paste the stylized square into the centre; the rest gets the square's colour change."""
    x, y = small.width / size[0], small.height / size[1]
    around = apply_colour_change(small, _colour_change(before, after), place.scaled(x, y))
    whole = _resized(around, size)
    left, top, side = crop_box(size)
    whole.paste(_resized(after, (side, side)), (left, top), _seam(size))
    return whole


def _seam(size: Size) -> Image.Image:
    """Blending mask ("L") of the central square, which fades towards the rest of the photo."""
    _, _, side = crop_box(size)
    width = max(1, round(side * SEAM))
    mask = Image.new("L", (side, side), 255)
    draw = ImageDraw.Draw(mask)
    for i in range(width):
        x = (i + 0.5) / width
        value = round(255 * x * x * (3 - 2 * x))
        if size[0] > size[1]:
            draw.line([(i, 0), (i, side)], fill=value)
            draw.line([(side - 1 - i, 0), (side - 1 - i, side)], fill=value)
        else:
            draw.line([(0, i), (side, i)], fill=value)
            draw.line([(0, side - 1 - i), (side, side - 1 - i)], fill=value)
    return mask


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

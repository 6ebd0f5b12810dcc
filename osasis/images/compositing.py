"""How a photo of any size meets the base's square, and how the stylized square goes back.

An output has the photo's own size, whatever the fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from osasis.images.geometry import Size, SquarePlacement, crop_box, pad_box

# ``detail`` imports torch, which takes seconds; the way into the square does without.
if TYPE_CHECKING:
    from osasis.images.guided_filter import ColourChange

# Faces fade into the photo over this part of half a square.
FEATHER = 0.35
# A cropped square fades into what lies beside it over this part of its side.
SEAM = 1 / 8


def photo_needed(photo: Size, fit: str, detail: bool) -> str:
    """What of the photo the way back needs: "" (its size), "small" (a copy at the base's scale)
    or "whole"."""
    if detail or fit == "align":
        return "whole"
    return "small" if fit == "crop" and photo[0] != photo[1] else ""


def downscaled_photo(photo: Image.Image, square: int) -> Image.Image:
    """The photo with a short side of ``square`` pixels; a smaller one as it is."""
    scale = square / min(photo.size)
    if scale >= 1:
        return photo
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    return photo.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def put_back(
    size: Size,
    fit: str,
    places: Sequence[SquarePlacement],
    squares: Sequence[Image.Image],
    stylized: Sequence[Image.Image],
    *,
    photo: Image.Image | None = None,
    detail: bool = False,
) -> Image.Image:
    """The photo, ``size`` pixels, with its square (for "align": its faces) stylized.

    squares, stylized: what the base saw and what it made of it, at each place. photo: what
    ``photo_needed`` says. With ``detail`` the change is carried up to the photo's own resolution,
    else the square is enlarged.
    """
    if fit == "align":
        return _faces_back(_given(photo), places, squares, stylized, detail)
    (place,), (before,), (after,) = places, squares, stylized
    if detail:
        from osasis.images.guided_filter import apply_colour_change

        return apply_colour_change(_given(photo), _change(before, after), place)
    if fit == "pad":
        (left, top), (w, h) = pad_box(size, after.width)
        after = after.crop((left, top, left + w, top + h))
    if fit == "crop" and size[0] != size[1]:
        return _crop_back(size, _given(photo), place, before, after)
    return _resized(after, size)


def _crop_back(
    size: Size, small: Image.Image, place: SquarePlacement, before: Image.Image, after: Image.Image
) -> Image.Image:
    """The square in the middle; beside it the photo, as soft, in the change that the square has
    there at large."""
    from osasis.images.guided_filter import apply_colour_change

    x, y = small.width / size[0], small.height / size[1]
    around = apply_colour_change(small, _change(before, after), place.scaled(x, y))
    whole = _resized(around, size)
    left, top, side = crop_box(size)
    whole.paste(_resized(after, (side, side)), (left, top), _seam(size))
    return whole


def _seam(size: Size) -> Image.Image:
    """A mask of the square that fades where photo lies beyond it."""
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


def _faces_back(
    photo: Image.Image,
    places: Sequence[SquarePlacement],
    squares: Sequence[Image.Image],
    stylized: Sequence[Image.Image],
    detail: bool,
) -> Image.Image:
    from osasis.images.guided_filter import apply_colour_change, paste_square
    from osasis.images.tensors import image_to_tensor

    for place, before, after in zip(places, squares, stylized, strict=True):
        if detail:
            photo = apply_colour_change(photo, _change(before, after), place, feather=FEATHER)
        else:
            photo = paste_square(photo, image_to_tensor(after), place, feather=FEATHER)
    return photo


def _change(before: Image.Image, after: Image.Image) -> ColourChange:
    from osasis.images.guided_filter import fit_colour_change
    from osasis.images.tensors import image_to_tensor

    return fit_colour_change(image_to_tensor(before), image_to_tensor(after))


def _resized(image: Image.Image, size: Size) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def _given(photo: Image.Image | None) -> Image.Image:
    if photo is None:
        raise ValueError("this way back needs the photo")
    return photo

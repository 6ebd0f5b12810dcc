"""Mask files: which part of a picture is the mask, and whether a mask fits a photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from osasis.errors import ImageError, UserError
from osasis.images.decoding import MAX_PIXELS, load_sized
from osasis.images.geometry import Size, fit_square, fit_whole
from osasis.images.photo_options import PhotoOptions

# Differences of lightness and alpha up to this many of 255 are a lossy file's, not a meaning.
TOLERANCE = 16
# Aspect ratios may differ by this share, as those of scaled copies do.
ASPECT_TOLERANCE = 0.02


@dataclass(frozen=True)
class Mask:
    """A decoded mask. image: "L", white where the style shows. size: of the file, in pixels."""

    image: Image.Image
    size: Size


def read_mask(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> Mask:
    """Read a mask from the bytes of an image file. name: of the mask, in errors.

    Where the alpha channel varies, it is the mask: the style shows where the file is opaque. Else
    the lightness is the mask. Raises ImageError for a file that cannot be read, and for one whose
    opaque part is black or of several tones, so that its lightness contradicts its alpha channel.
    """
    image, size = load_sized(data, name=name, max_pixels=max_pixels, alpha=True)
    if image.mode != "RGBA":
        return Mask(image.convert("L"), size)
    alpha = image.getchannel("A")
    lightness = image.convert("RGB").convert("L")
    lowest, highest = alpha.getextrema()
    if lowest == highest:
        if highest == 0:
            raise ImageError(name, f"the mask is transparent everywhere; {_REMEDY}")
        return Mask(lightness, size)
    found = _contradiction(np.asarray(alpha), np.asarray(lightness))
    if found:
        raise ImageError(
            name,
            f"the mask has transparency, and {found}: it may mean that the style shows where the "
            f"mask is opaque, or where it is {_OTHER[found]}; {_REMEDY}",
        )
    return Mask(alpha, size)


_BLACK, _TONES = "its opaque part is black", "its opaque part has several tones"
_OTHER = {_BLACK: "transparent", _TONES: "light"}
_REMEDY = "save it without transparency, white where the style shows and black elsewhere"


def _contradiction(alpha: np.ndarray, lightness: np.ndarray) -> str:
    """Why the lightness of the opaque part is no mere brush colour; "" where it is one."""
    # Edges of low alpha have imprecise colours.
    opaque = lightness[alpha >= min(128, int(alpha.max()))]
    if int(opaque.max()) <= TOLERANCE:
        return _BLACK
    if int(opaque.max()) - int(opaque.min()) <= TOLERANCE:
        return ""
    visible = alpha > 0
    difference = np.abs(alpha[visible].astype(int) - lightness[visible])
    return "" if difference.max() <= TOLERANCE else _TONES


def fit_mask(mask: Mask, square: int, options: PhotoOptions) -> Image.Image:
    """The mask ("L") of the base's square, of ``square`` pixels; with fit ``whole`` of its shape.

    A mask is fitted like the photo; a square mask is the mask of the base's square itself. Raises
    ImageError for a crop box beyond the mask, UserError with fit ``align``.
    """
    if options.fit == "align":
        raise UserError("masks cannot be combined with fit align; choose another fit")
    if mask.size[0] == mask.size[1]:
        return fit_square(mask.image, square)
    if options.fit == "whole":
        return fit_whole(mask.image, mask.size, square)
    box = None if options.crop is None else options.crop.within(mask.size, "the mask")
    return fit_square(mask.image, square, options.fit, box)


def shape_problem(mask: Size, photo: Size, cropped: bool = False) -> str:
    """Why a mask of this size cannot be laid over a photo of this size; "" where it can.

    Unless it is square, a mask has the photo's aspect ratio, and with a crop box (cropped) the
    photo's size, because the box is in the photo's pixels.
    """
    (mask_width, mask_height), (width, height) = mask, photo
    if mask_width == mask_height or mask == photo:
        return ""
    ratio = (mask_width * height) / (mask_height * width)
    # One pixel of either side is the rounding of a scaled copy.
    rounding = 1 / min(*mask, *photo)
    if abs(ratio - 1) <= max(ASPECT_TOLERANCE, rounding) and not cropped:
        return ""
    wanted = "size, as crop is in its pixels," if cropped else "aspect ratio,"
    return (
        f"has {mask_width}x{mask_height} pixels, but the photo has {width}x{height}; give the mask "
        f"the photo's {wanted} or make it square for the base's square"
    )

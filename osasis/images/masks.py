"""Masks: which part of a file is the mask, whether it fits a photo, and where it lies on it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageChops

from osasis.errors import ImageError, UserError
from osasis.images.decoding import MAX_PIXELS, load_sized
from osasis.images.geometry import Size, crop_box, fit_square, fit_whole, pad_box
from osasis.images.photo_options import PhotoOptions

# Differences of lightness and alpha up to this many of 255 are a lossy file's, not a meaning.
TOLERANCE = 16
# Aspect ratios may differ by this share, as those of scaled copies do.
ASPECT_TOLERANCE = 0.02
# Sharper filters ring, so that pixels outside of a mask would not be 0.
FILTER = Image.Resampling.BILINEAR


def read_mask(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a mask ("L", white where the style shows) from the bytes of an image file.

    Where the alpha channel varies, it is the mask: the style shows where the file is opaque. Else
    the lightness is the mask. name: of the mask, in errors. Raises ImageError for a file that
    cannot be read, and for one whose opaque part is black or of several tones, so that its
    lightness contradicts its alpha channel.
    """
    image, _ = load_sized(data, name=name, max_pixels=max_pixels, alpha=True)
    if image.mode != "RGBA":
        return image.convert("L")
    alpha = image.getchannel("A")
    lightness = image.convert("RGB").convert("L")
    lowest, highest = alpha.getextrema()
    if lowest == highest:
        if highest == 0:
            raise ImageError(name, f"the mask is transparent everywhere; {_REMEDY}")
        return lightness
    found = _contradiction(np.asarray(alpha), np.asarray(lightness))
    if found:
        raise ImageError(
            name,
            f"the mask has transparency, and {found}: it may mean that the style shows where the "
            f"mask is opaque, or where it is {_OTHER[found]}; {_REMEDY}",
        )
    return alpha


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


def refuse_align(options: PhotoOptions) -> None:
    """Raise UserError for masks with fit ``align``, which may have several squares in a photo."""
    if options.fit == "align":
        raise UserError("masks cannot be combined with fit align; choose another fit")


def fit_mask(mask: Image.Image, square: int, options: PhotoOptions, photo: Size) -> Image.Image:
    """The mask ("L") of the base's square, of ``square`` pixels; with fit ``whole`` of its shape.

    photo: the photo's size. A mask is fitted like the photo; a square mask that has not the photo's
    size is the mask of the base's square itself. Raises ImageError for a crop box beyond the mask,
    UserError with fit ``align``.
    """
    refuse_align(options)
    if options.fit == "whole":
        return fit_whole(mask, photo, square, FILTER)
    if mask.size[0] == mask.size[1] and mask.size != photo:
        return fit_square(mask, square, resample=FILTER)
    box = None if options.crop is None else options.crop.within(mask.size, "the mask")
    return fit_square(mask, square, options.fit, box, FILTER)


def mask_on_photo(mask: Image.Image, photo: Size, options: PhotoOptions) -> Image.Image:
    """The mask ("L") at the photo's size.

    A square mask that has not the photo's size is the mask of the base's square; beyond the square
    of fit ``crop``, its border is continued. Raises ImageError for a crop box beyond the photo.
    """
    if mask.size == photo:
        return mask
    if mask.width != mask.height or options.fit in ("resize", "whole"):
        return mask.resize(photo, FILTER, reducing_gap=3.0)
    if options.fit == "pad":
        (left, top), (width, height) = pad_box(photo, mask.width)
        inner = (left, top, left + width, top + height)
        return mask.resize(photo, FILTER, box=inner, reducing_gap=3.0)
    box = crop_box(photo) if options.crop is None else options.crop.within(photo, "the photo")
    left, top, side = box
    inside = np.asarray(mask.resize((side, side), FILTER, reducing_gap=3.0))
    around = ((top, photo[1] - top - side), (left, photo[0] - left - side))
    return Image.fromarray(np.pad(inside, around, mode="edge"))


def coverage(masks: Sequence[Image.Image]) -> Image.Image:
    """The largest value of masks ("L", of one size) at each pixel."""
    return functools.reduce(ImageChops.lighter, masks)


def shares_inside(
    masks: Mapping[str, Image.Image], names: Sequence[str | None]
) -> dict[str, Image.Image]:
    """The masks by which a mix composes its styles, each relative to the coverage of all.

    Their largest value is 255 wherever the photo is covered at all, so that soft borders are
    stylized completely: compositing then blends them with the photo once, at its own resolution.

    masks: "L", of one size. names: of the mix's styles; None for a style without a mask, which
    covers the picture, so that the masks are returned as they are.
    """
    used = {name: masks[name] for name in names if name is not None}
    if not used or None in names:
        return used
    pixels = {name: np.asarray(mask, np.float32) for name, mask in used.items()}
    whole = np.maximum.reduce(list(pixels.values())).clip(min=1)
    return {
        name: Image.fromarray((values * 255 / whole).round().astype(np.uint8))
        for name, values in pixels.items()
    }


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

"""A photo's squares for the base, and the photo made of their stylizations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from osasis.errors import FitError
from osasis.images.compositing import composite_into_photo, downscaled_photo, photo_needed
from osasis.images.decoding import MAX_PIXELS, load_sized, png_bytes, read_png
from osasis.images.faces import cut_square, find_faces
from osasis.images.geometry import (
    Box,
    Size,
    SquarePlacement,
    aspect_problem,
    fit_square,
    fit_whole,
    placement_for_fit,
)
from osasis.images.masks import coverage, fit_mask, mask_on_photo
from osasis.images.photo_options import PhotoOptions
from osasis.images.transparency import separate_alpha

NO_FACE = (
    "no face is found, upright or turned by about 30 degrees; choose fit crop, or no_face crop or "
    "keep"
)


@dataclass(frozen=True)
class FittedPhoto:
    """A photo's squares, and what ``Compositor`` needs. Images are encoded.

    size: width and height of the photo, in pixels. fit: as it was applied: ``crop`` for a photo
    without a face that is cropped. box: the square of fit ``crop``; None for the central one.
    places: of the squares in the photo. squares: PNGs of the base's size; with fit ``whole`` one of
    the photo's shape, whose shorter side is the base's. photo: the copy of the
    photo that compositing needs; None where it needs none. transparent: whether the photo has
    transparent pixels. alpha: its alpha channel at the output's size, where the output keeps it.
    """

    size: Size
    fit: str
    box: Box | None
    places: tuple[SquarePlacement, ...]
    squares: tuple[bytes, ...]
    photo: bytes | None
    transparent: bool
    alpha: bytes | None

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.squares)) + len(self.photo or b"") + len(self.alpha or b"")

    def to_row(self) -> dict[str, Any]:
        """Plain data for ``from_row``; the placements are JSON."""
        at = [place.to_list() for place in self.places]
        return {
            "width": self.size[0],
            "height": self.size[1],
            "places": json.dumps({"fit": self.fit, "box": self.box, "at": at}),
            "squares": list(self.squares),
            "photo": self.photo,
            "transparent": self.transparent,
            "alpha": self.alpha,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> FittedPhoto:
        placed = json.loads(row["places"])
        return cls(
            (row["width"], row["height"]),
            placed["fit"],
            None if placed["box"] is None else tuple(placed["box"]),
            tuple(SquarePlacement(*numbers) for numbers in placed["at"]),
            tuple(row["squares"]),
            row["photo"],
            row["transparent"],
            row["alpha"],
        )


def fit_photo(
    data: bytes,
    square: int,
    options: PhotoOptions,
    *,
    keep_alpha: bool,
    masked: bool = False,
    name: str = "image",
    max_pixels: int = MAX_PIXELS,
) -> FittedPhoto:
    """Decode a photo and fit it to squares of ``square`` pixels.

    data: content of the file. keep_alpha: whether the output keeps the photo's transparency.
    masked: whether masks leave parts of the photo as they are. name: of the photo, in errors.
    Raises ImageError for a file that cannot be read, FitError for a photo without a face, a crop
    box beyond the photo, and a strip with fit ``whole``.
    """
    whole = options.fit == "align" or (options.detail and options.size == "photo")
    target = None if whole or options.crop is not None else square
    image, size = load_sized(data, name=name, target=target, max_pixels=max_pixels, alpha=True)
    transparent = image.mode == "RGBA"
    image, alpha = separate_alpha(image, keep_alpha)
    box = None if options.crop is None else options.crop.within(size, name)
    fit, places, squares = _fitted(image, size, square, options, box, name)
    if alpha is not None and options.size == "base":
        alpha = _scaled(alpha, size, square, fit, box)
    need = photo_needed(size, fit, options.detail, box) if options.size == "photo" else ""
    photo = None
    if need == "whole" or (masked and options.size == "photo"):
        photo = data
    elif need == "small":
        photo = png_bytes(downscaled_photo(image, square))
    return FittedPhoto(
        size, fit, box, tuple(places), tuple(map(png_bytes, squares)), photo, transparent,
        None if alpha is None else png_bytes(alpha),
    )  # fmt: skip


def _fitted(
    image: Image.Image, size: Size, square: int, options: PhotoOptions, box: Box | None, name: str
) -> tuple[str, list[SquarePlacement], list[Image.Image]]:
    """The fit as it is applied, and the placement and picture of each square."""
    fit: str = options.fit
    if fit == "align":
        places = find_faces(image)
        if places or options.no_face == "keep":
            return fit, places, [cut_square(image, place, square) for place in places]
        if options.no_face == "error":
            raise FitError(name, NO_FACE, "fit")
        fit = "crop"
    if fit == "whole" and (problem := aspect_problem(size)):
        raise FitError(name, problem, "fit")
    place = placement_for_fit(size, square, fit, box)
    return fit, [place], [_scaled(image, size, square, fit, box)]


def _scaled(image: Image.Image, size: Size, square: int, fit: str, box: Box | None) -> Image.Image:
    """A photo of width and height ``size``, or its alpha channel, as the base takes it."""
    if fit == "whole":
        return fit_whole(image, size, square)
    return fit_square(image, square, fit, box)


class Compositor:
    """Makes outputs of one photo from its stylized squares; decodes the photo once for all."""

    def __init__(self, fitted: FittedPhoto, options: PhotoOptions) -> None:
        self.fitted, self.options = fitted, options
        self._photo: Image.Image | None = None
        # The photo's own colours, also below transparent pixels.
        self._unchanged: Image.Image | None = None
        self._squares: list[Image.Image] | None = None

    def composite(
        self, stylized: Sequence[Image.Image], masks: Sequence[Image.Image] = ()
    ) -> Image.Image:
        """The output image. stylized: the base's output for each square, in order.

        masks: where all of them are 0, the output has the photo's own pixels; this needs a photo
        that was fitted with ``masked``. Without masks, all of the photo is stylized.
        """
        image = self._opaque(stylized)
        if masks:
            cover = coverage([self._mask(mask, image.size) for mask in masks])
            image = Image.composite(image, self._outside(), cover)
        if self.fitted.alpha is not None:
            image = image.copy()
            image.putalpha(read_png(self.fitted.alpha, "L"))
        return image

    def _mask(self, mask: Image.Image, output: Size) -> Image.Image:
        """A mask at the output's size."""
        if self.options.size == "base":
            return fit_mask(mask, min(output), self.options, self.fitted.size)
        return mask_on_photo(mask, output, self.options)

    def _outside(self) -> Image.Image:
        """The picture outside of all masks."""
        if self.options.size == "base":
            return read_png(self.fitted.squares[0])
        if self._unchanged is None:
            raise ValueError("the photo was fitted without masked; compositing by masks needs it")
        return self._unchanged

    def _opaque(self, stylized: Sequence[Image.Image]) -> Image.Image:
        fitted = self.fitted
        if self.options.size == "base":
            return stylized[0]
        if self._squares is None:
            self._squares = [read_png(s) for s in fitted.squares]
            if fitted.photo is not None:
                self._read_photo(fitted.photo)
        return composite_into_photo(
            fitted.size, fitted.fit, fitted.places, self._squares, stylized,
            photo=self._photo, detail=self.options.detail, box=fitted.box,
        )  # fmt: skip

    def _read_photo(self, data: bytes) -> None:
        """Decode the copy of the photo that the fit and masks need."""
        fitted = self.fitted
        image, _ = load_sized(data, min_side=1, alpha=True)
        keep = fitted.alpha is not None
        photo, _ = separate_alpha(image, keep)
        if photo.size == fitted.size:
            self._unchanged = image.convert("RGB") if keep else photo
        if photo_needed(fitted.size, fitted.fit, self.options.detail, fitted.box) == "small":
            photo = downscaled_photo(photo, read_png(fitted.squares[0]).width)
        self._photo = photo

"""Masks of requests: sent by clients, or proposed for a photo."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from PIL import Image

from osasis.choices import MaskRegion
from osasis.errors import UserError
from osasis.images.decoding import load_sized, png_bytes
from osasis.images.geometry import Size
from osasis.images.masks import fit_mask, read_mask, refuse_align, shares_inside
from osasis.images.photo_options import PhotoOptions
from osasis.images.transparency import separate_alpha
from osasis.segmenting import Segmenter
from osasis.segmenting.prompts import Prompt
from serving.config import Limits
from serving.errors import ApiError
from serving.request_images import check_header, refused

# Masks that a mix may name without sending them.
REGIONS: tuple[str, ...] = get_args(MaskRegion)


@dataclass(frozen=True)
class PhotoMasks:
    """The masks of one photo by name ("L"), white where the style shows.

    hashes: SHA-256 of the files that were sent; of a proposed mask, of its PNG.
    """

    images: dict[str, Image.Image] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)

    def with_png(self, name: str, data: bytes) -> PhotoMasks:
        """The masks and another one, a PNG of this module."""
        image = Image.open(io.BytesIO(data), formats=["PNG"]).convert("L")
        digest = hashlib.sha256(data).hexdigest()
        return PhotoMasks({**self.images, name: image}, {**self.hashes, name: digest})

    def on_square(
        self,
        names: Sequence[str | None],
        square: int,
        options: PhotoOptions,
        photo: Size,
        keeps_photo: bool,
    ) -> dict[str, bytes]:
        """The masks that compose a mix on the photo's square, as grey PNGs.

        names: of the mix's styles. photo: its size. keeps_photo: whether the photo itself is
        outside of them; they are then those of ``shares_inside``. Raises ApiError.
        """
        with refused("masks"):
            fitted = {n: fit_mask(mask, square, options, photo) for n, mask in self.images.items()}
        if keeps_photo:
            fitted = shares_inside(fitted, names)
        return {name: png_bytes(mask) for name, mask in fitted.items()}


def sent_masks(sent: Mapping[str, bytes], options: PhotoOptions, limits: Limits) -> PhotoMasks:
    """The masks that a client has sent, by name. Raises ApiError."""
    images = {}
    for name, data in sent.items():
        place = f"masks.{name}"
        check_header(data, place, limits)
        with refused(place):
            refuse_align(options)
            images[name] = read_mask(data, place, max_pixels=limits.pixels)
    return PhotoMasks(images, {n: hashlib.sha256(data).hexdigest() for n, data in sent.items()})


def proposed_mask(
    data: bytes, photo_field: str, region: str, prompt: Prompt, segmenter: Segmenter, limits: Limits
) -> bytes:
    """The mask of a region of a client's photo: a grey PNG of the photo's size. Raises ApiError.

    photo_field: path of the photo in the request. prompt: in place of the segmenter's own.
    """
    check_header(data, photo_field, limits)
    wanted: MaskRegion = region  # type: ignore[assignment]  # one of REGIONS
    if prompt:
        try:
            segmenter = segmenter.replace(points=prompt.points, box=prompt.box, text=prompt.text)
        except UserError as e:
            where = "text" if prompt.text else "points" if prompt.points else "box"
            raise ApiError(422, str(e), field=where) from None
    try:
        segmenter.check(wanted)
        with refused(photo_field):
            image, _ = load_sized(data, name=photo_field, max_pixels=limits.pixels, alpha=True)
        mask = segmenter.propose(separate_alpha(image, keep=True)[0], wanted)
    except UserError as e:
        raise ApiError(422, str(e), field="region", value=region) from None
    return png_bytes(mask)

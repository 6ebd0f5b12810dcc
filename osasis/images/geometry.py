"""Geometry of the base's square on a photo: crop, pad, resize, and any affine placement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
from PIL import Image

from osasis.choices import SquareFit
from osasis.errors import UserError, did_you_mean

Size = tuple[int, int]
# Left, top and side of a square, in pixels.
Box = tuple[int, int, int]
FITS = get_args(SquareFit)
# How much longer than its shorter side an image may be that keeps its shape: a strip would need
# unbounded memory, and Stable Diffusion was trained on squares.
MAX_ASPECT = 4
# The latents of Stable Diffusion have an eighth of an image's sides.
WHOLE_MULTIPLE = 8


@dataclass(frozen=True)
class SquarePlacement:
    """Affine map from photo coordinates to the coordinates of a square on the photo.

    u = ux·x + uy·y + u0 and v = vx·x + vy·y + v0. x and y are in pixels (a pixel's corners lie at
    integers); u and v are in [-1, 1] inside the square.
    """

    ux: float
    uy: float
    u0: float
    vx: float
    vy: float
    v0: float

    def to_list(self) -> list[float]:
        return [self.ux, self.uy, self.u0, self.vx, self.vy, self.v0]

    def scaled(self, x: float, y: float) -> SquarePlacement:
        """The same placement on a photo that was resized by the factors x and y."""
        return SquarePlacement(self.ux / x, self.uy / y, self.u0, self.vx / x, self.vy / y, self.v0)

    def corners(self) -> list[tuple[float, float]]:
        """x and y of the upper left, upper right, lower right and lower left corner."""
        inverse = np.linalg.inv(np.array([[self.ux, self.uy], [self.vx, self.vy]]))
        ends = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) - (self.u0, self.v0)
        return [(float(x), float(y)) for x, y in ends @ inverse.T]

    def upright_box(self, photo: Size) -> Box:
        """An upright square of about this size and centre inside a photo."""
        points = np.array(self.corners())
        side = min(round(float(np.hypot(*(points[1] - points[0])))), *photo)
        x, y = points.mean(0) - side / 2
        return (
            int(np.clip(round(x), 0, photo[0] - side)),
            int(np.clip(round(y), 0, photo[1] - side)),
            side,
        )

    def bounds(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Bounding box (left, top, right, bottom) in pixels of the square, clipped to the photo."""
        points = np.array(self.corners())
        low, high = np.floor(points.min(0)), np.ceil(points.max(0))
        return (
            int(np.clip(low[0], 0, width)),
            int(np.clip(low[1], 0, height)),
            int(np.clip(high[0], 0, width)),
            int(np.clip(high[1], 0, height)),
        )


def placement_for_fit(
    photo: Size, square: int, fit: str, box: Box | None = None
) -> SquarePlacement:
    """Placement of the square that ``fit_square`` makes of a photo of this width and height."""
    width, height = photo
    if fit in ("resize", "whole"):
        return SquarePlacement(2 / width, 0.0, -1.0, 0.0, 2 / height, -1.0)
    if fit == "crop":
        left, top, side = box or crop_box(photo)
        return SquarePlacement(
            2 / side, 0.0, -1 - 2 * left / side, 0.0, 2 / side, -1 - 2 * top / side
        )
    (left, top), (w, h) = pad_box(photo, square)
    return SquarePlacement(
        2 * w / (width * square), 0.0, 2 * left / square - 1,
        0.0, 2 * h / (height * square), 2 * top / square - 1,
    )  # fmt: skip


def working_size(size: Size, shorter: int, multiple: int) -> Size:
    """Width and height with a shorter side of ``shorter`` pixels, each a multiple of ``multiple``.

    With a multiple of 1 the longer side is rounded down.
    """
    least = min(size)
    if multiple == 1:
        width, height = (side * shorter // least for side in size)
    else:
        width, height = (max(1, round(n * shorter / least / multiple)) * multiple for n in size)
    return width, height


def aspect_problem(size: Size) -> str:
    """Why an image of this size has no working size; "" where it has one."""
    if max(size) <= MAX_ASPECT * min(size):
        return ""
    return (
        f"it has {size[0]}x{size[1]} pixels; the longer side may have at most {MAX_ASPECT} times "
        "the shorter one's; crop it"
    )


def crop_box(photo: Size) -> Box:
    """The photo's central square."""
    width, height = photo
    side = min(photo)
    return (width - side) // 2, (height - side) // 2, side


def pad_box(photo: Size, square: int) -> tuple[tuple[int, int], Size]:
    """(left, top) and (width, height) of the scaled photo inside the padded square."""
    scale = square / max(photo)
    inner = (max(1, round(photo[0] * scale)), max(1, round(photo[1] * scale)))
    return ((square - inner[0]) // 2, (square - inner[1]) // 2), inner


def fit_whole(
    image: Image.Image,
    photo: Size,
    square: int,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """An image of a photo of this size, or its mask, in the photo's shape: fit ``whole``.

    The shorter side has ``square`` pixels, and both sides are multiples of ``WHOLE_MULTIPLE``.
    """
    size = working_size(photo, square, WHOLE_MULTIPLE)
    return image.resize(size, resample, reducing_gap=3.0)


def fit_square(
    image: Image.Image,
    size: int,
    fit: str = "crop",
    box: Box | None = None,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """Fit an image to ``size`` x ``size`` pixels. Mode "L" (a mask) is kept; others become "RGB".

    fit: "crop" takes ``box``, by default the central square, "pad" scales the whole image and
    repeats its edge pixels, "resize" stretches the whole image. Raises UserError for another
    ``fit`` or a size below 1.
    """
    if fit not in FITS:
        raise UserError(
            f"fit is {fit!r}{did_you_mean(str(fit), FITS)}; it must be one of {', '.join(FITS)}"
        )
    if size < 1:
        raise UserError(f"size is {size}; it must be a whole number from 1")
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    width, height = image.size
    part, inner = (0, 0, width, height), (size, size)
    if fit == "crop":
        # Whole pixels: an offset of half a pixel would blur an image that needs no scaling.
        left, top, side = box or crop_box(image.size)
        part = (left, top, left + side, top + side)
    elif fit == "pad":
        _, inner = pad_box(image.size, size)
    # reducing_gap: Pillow averages whole blocks first, which is several times faster.
    scaled = image.resize(inner, resample, box=part, reducing_gap=3.0)
    if inner != (size, size):
        gaps = [((size - n) // 2, size - n - (size - n) // 2) for n in reversed(inner)]
        pixels = np.asarray(scaled)
        pads = gaps + [(0, 0)] * (pixels.ndim - 2)
        scaled = Image.fromarray(np.pad(pixels, pads, mode="edge"))
    return scaled

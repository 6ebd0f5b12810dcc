"""Where the base's square lies on a photo, and a picture brought to that square. Without torch."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from osasis.errors import UserError

Size = tuple[int, int]
FITS = ("crop", "pad", "resize")


@dataclass(frozen=True)
class SquarePlacement:
    """Where a square lies on a photo: photo coordinates (pixels, corners at whole numbers) to
    the square's, [-1, 1] in both directions: u = ux·x + uy·y + u0, v = vx·x + vy·y + v0."""

    ux: float
    uy: float
    u0: float
    vx: float
    vy: float
    v0: float

    def to_list(self) -> list[float]:
        return [self.ux, self.uy, self.u0, self.vx, self.vy, self.v0]

    def scaled(self, x: float, y: float) -> SquarePlacement:
        """The same place on a photo that was resized by these factors."""
        return SquarePlacement(self.ux / x, self.uy / y, self.u0, self.vx / x, self.vy / y, self.v0)

    def bounds(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The photo's pixels (left, top, right, bottom) that the square touches."""
        inverse = np.linalg.inv(np.array([[self.ux, self.uy], [self.vx, self.vy]]))
        corners = np.array([(u - self.u0, v - self.v0) for u in (-1, 1) for v in (-1, 1)])
        points = corners @ inverse.T
        low, high = np.floor(points.min(0)), np.ceil(points.max(0))
        return (
            int(np.clip(low[0], 0, width)),
            int(np.clip(low[1], 0, height)),
            int(np.clip(high[0], 0, width)),
            int(np.clip(high[1], 0, height)),
        )


def placement_for_fit(photo: Size, square: int, fit: str) -> SquarePlacement:
    """Where ``fit_square`` takes a photo of this width and height: crop, pad or resize."""
    width, height = photo
    if fit == "resize":
        return SquarePlacement(2 / width, 0.0, -1.0, 0.0, 2 / height, -1.0)
    if fit == "crop":
        left, top, side = crop_box(photo)
        return SquarePlacement(
            2 / side, 0.0, -1 - 2 * left / side, 0.0, 2 / side, -1 - 2 * top / side
        )
    (left, top), (w, h) = pad_box(photo, square)
    return SquarePlacement(
        2 * w / (width * square), 0.0, 2 * left / square - 1,
        0.0, 2 * h / (height * square), 2 * top / square - 1,
    )  # fmt: skip


def crop_box(photo: Size) -> tuple[int, int, int]:
    """Left, top and side of the central square."""
    width, height = photo
    side = min(photo)
    return (width - side) // 2, (height - side) // 2, side


def pad_box(photo: Size, square: int) -> tuple[tuple[int, int], Size]:
    """Left and top, and width and height, of the whole photo inside the padded square."""
    scale = square / max(photo)
    inner = (max(1, round(photo[0] * scale)), max(1, round(photo[1] * scale)))
    return ((square - inner[0]) // 2, (square - inner[1]) // 2), inner


def fit_square(image: Image.Image, size: int, fit: str = "crop") -> Image.Image:
    """Bring a picture to ``size`` x ``size`` pixels; "L" (a mask) stays "L", all else is "RGB".

    ``fit``: "crop" keeps the central square, "pad" the whole picture with its edge pixels
    repeated, "resize" the whole picture stretched. Raises UserError for any other ``fit``.
    """
    if fit not in FITS:
        near = difflib.get_close_matches(str(fit), FITS, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"fit: {fit!r} is not one of {', '.join(FITS)}{hint}")
    if size < 1:
        raise UserError(f"size: {size} pixels; it must be 1 or more")
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    width, height = image.size
    box, inner = (0, 0, width, height), (size, size)
    if fit == "crop":
        # Whole pixels: half a pixel of offset would blur a picture that needs no scaling.
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
    elif fit == "pad":
        scale = size / max(width, height)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    # The gap lets Pillow average whole blocks first: large pictures in a fraction of the time.
    scaled = image.resize(inner, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    if inner != (size, size):
        gaps = [((size - n) // 2, size - n - (size - n) // 2) for n in reversed(inner)]
        pixels = np.asarray(scaled)
        pads = gaps + [(0, 0)] * (pixels.ndim - 2)
        scaled = Image.fromarray(np.pad(pixels, pads, mode="edge"))
    return scaled

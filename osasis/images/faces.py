"""Face detection and alignment to the square of a portrait base.

The cascades in OpenCV's wheel detect faces and eyes. The square places the eyes where aligned
training portraits have them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from osasis.errors import UserError
from osasis.images.geometry import SquarePlacement
from osasis.images.tensors import image_to_tensor, tensor_to_image

# Positions of the eyes in an aligned portrait, as shares of the side from the top left, and centre
# and side of the detector's box, used where the eyes are not detected. Medians over portraits.
LEFT_EYE, RIGHT_EYE = (0.3625, 0.36), (0.6235, 0.36)
BOX_CENTRE, BOX_SIDE = (0.495, 0.427), 0.675
# Faces are detected on a copy of at most this side, in pixels; the smallest has 1/50 of its side.
SEARCH_SIDE = 1600
MIN_FACE = 32
EYES_SIDE = 240
# Degrees by which a photo without an upright face is turned to both sides.
TURN = 30


def find_faces(image: Image.Image) -> list[SquarePlacement]:
    """Placements of all upright or slightly tilted faces, from left to right.

    Where there is none, faces that are turned by about ``TURN`` degrees to either side. Raises
    UserError where OpenCV is not installed.
    """
    scale = min(1.0, SEARCH_SIDE / max(image.size))
    small = image
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        small = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    grey = np.asarray(small.convert("L"))
    # Without a margin, the detector misses faces that fill the image.
    margin = max(8, min(grey.shape) // 4)
    grey = np.pad(grey, margin, mode="edge")
    places = []
    for left, top, right, down in _squares(grey) or _turned_squares(grey):
        origin = ((left - margin) / scale, (top - margin) / scale)
        places.append(_place(origin, (right / scale, down / scale)))
    return places


# A square as its left and top corner and its side as a vector: (left, top, x, y).
_Square = tuple[float, float, float, float]


def _squares(grey: np.ndarray, need_eyes: bool = False) -> list[_Square]:
    """The squares of upright faces. need_eyes: leave out faces whose eyes are not found."""
    faces, eyes = _cascades()
    least = max(MIN_FACE, min(grey.shape) // 50)
    found = faces.detectMultiScale(grey, 1.1, 5, minSize=(least, least))
    squares = []
    for x, y, w, _ in sorted(tuple(int(n) for n in box) for box in found):
        pair = _eyes(grey[y : y + w, x : x + w], eyes)
        if pair is not None:
            squares.append(_from_eyes(x, y, pair))
        elif not need_eyes:
            squares.append(_from_box(x, y, w))
    return squares


def _turned_squares(grey: np.ndarray) -> list[_Square]:
    """The squares of faces that are upright once the picture is turned."""
    found: list[_Square] = []
    for turn in (TURN, -TURN):
        turned = Image.fromarray(grey).rotate(
            turn, Image.Resampling.BILINEAR, expand=True, fillcolor=int(grey.mean())
        )
        centre = np.array([grey.shape[1], grey.shape[0]]) / 2
        turned_centre = np.array(turned.size) / 2
        angle = np.deg2rad(turn)
        back = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        # Turned pictures show more that looks like a face; two eyes tell a face apart.
        for left, top, x, y in _squares(np.asarray(turned), need_eyes=True):
            corner = back @ (np.array([left, top]) - turned_centre) + centre
            side = back @ np.array([x, y])
            square = (float(corner[0]), float(corner[1]), float(side[0]), float(side[1]))
            if not any(_same_face(square, other) for other in found):
                found.append(square)
    return sorted(found)


def _same_face(one: _Square, other: _Square) -> bool:
    """Whether the squares' centres are closer than half their side."""
    (ax, ay), (bx, by) = _centre(one), _centre(other)
    return bool(np.hypot(ax - bx, ay - by) < np.hypot(one[2], one[3]) / 2)


def _centre(square: _Square) -> tuple[float, float]:
    left, top, x, y = square
    return left + (x - y) / 2, top + (y + x) / 2


@functools.lru_cache(maxsize=1)
def _cascades() -> tuple[Any, list[Any]]:
    cv2: Any = None
    with contextlib.suppress(ImportError):
        cv2 = importlib.import_module("cv2")
    if not hasattr(cv2, "CascadeClassifier"):
        raise UserError(
            "fit align detects faces with OpenCV 4, which is not installed; "
            'run pip install "opencv-python-headless<5"'
        )
    cv2.setNumThreads(1)  # with threads, the order of the boxes and so their mean varies
    names = ("frontalface_alt2", "eye_tree_eyeglasses", "eye")
    face, *eyes = (
        cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_{name}.xml") for name in names
    )
    return face, eyes


def _eyes(face: np.ndarray, cascades: list[Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Left and right eye in pixels of the box, or None.

    A cascade must find exactly two eyes in the upper part of the box, at a plausible distance and
    tilt.
    """
    side = len(face)
    upper = Image.fromarray(face[: int(side * 0.62)])
    big = np.asarray(upper.resize((EYES_SIDE, int(EYES_SIDE * 0.62)), Image.Resampling.BICUBIC))
    for cascade in cascades:
        found = cascade.detectMultiScale(big, 1.05, 4, minSize=(28, 28))
        points = sorted((x + w / 2, y + h / 2) for x, y, w, h in found)
        if len(points) != 2:
            continue
        left, right = (np.array(p) * side / EYES_SIDE for p in points)
        across, down = (right - left) / side
        if 0.28 < across < 0.52 and abs(down) < 0.45 * across:
            return left, right
    return None


def _from_box(x: int, y: int, w: int) -> _Square:
    side = w / BOX_SIDE
    return (x + w / 2 - BOX_CENTRE[0] * side, y + w / 2 - BOX_CENTRE[1] * side, side, 0.0)


def _from_eyes(x: int, y: int, eyes: tuple[np.ndarray, np.ndarray]) -> _Square:
    left, right = eyes
    along = (right - left) / (RIGHT_EYE[0] - LEFT_EYE[0])
    down = np.array([-along[1], along[0]])
    middle = (left + right) / 2 + (x, y)
    corner = middle - along * (LEFT_EYE[0] + RIGHT_EYE[0]) / 2 - down * LEFT_EYE[1]
    return float(corner[0]), float(corner[1]), float(along[0]), float(along[1])


def _place(corner: tuple[float, float], side: tuple[float, float]) -> SquarePlacement:
    (left, top), (x, y) = corner, side
    squared = x * x + y * y
    ux, uy = 2 * x / squared, 2 * y / squared
    vx, vy = -uy, ux
    return SquarePlacement(ux, uy, -1 - ux * left - uy * top, vx, vy, -1 - vx * left - vy * top)


def cut_square(image: Image.Image, place: SquarePlacement, size: int) -> Image.Image:
    """Sample a square of ``size`` pixels from the photo; edge pixels repeat outside the photo."""
    left, top, right, bottom = place.bounds(image.width, image.height)
    if right - left < 2 or bottom - top < 2:
        left, top, right, bottom = 0, 0, image.width, image.height
    part = image.crop((left, top, right, bottom))
    # Reduce to about two pixels for each output pixel; grid_sample would alias otherwise.
    factor = max(1, int(max(part.size) / (2 * size)))
    part = part.reduce(factor)
    moved = SquarePlacement(
        place.ux, place.uy, place.u0 + place.ux * left + place.uy * top,
        place.vx, place.vy, place.v0 + place.vx * left + place.vy * top,
    ).scaled(1 / factor, 1 / factor)  # fmt: skip
    # Coordinates of the square's points in the cut part, in [-1, 1].
    inverse = np.linalg.inv(
        np.array([[moved.ux, moved.uy, moved.u0], [moved.vx, moved.vy, moved.v0], [0, 0, 1]])
    )
    steps = (torch.arange(2 * size, dtype=torch.float64) + 0.5) / size - 1
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    x = inverse[0, 0] * u + inverse[0, 1] * v + inverse[0, 2]
    y = inverse[1, 0] * u + inverse[1, 1] * v + inverse[1, 2]
    grid = torch.stack([2 * x / part.width - 1, 2 * y / part.height - 1], -1).float()
    pixels = image_to_tensor(part)[None]
    found = F.grid_sample(
        pixels, grid[None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return tensor_to_image(F.avg_pool2d(found, 2)[0])


def require_detector() -> None:
    """Raise UserError where OpenCV's face detector is not installed."""
    _cascades()

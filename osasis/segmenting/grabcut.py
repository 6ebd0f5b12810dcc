"""Masks by GrabCut (Rother, Kolmogorov, Blake: "GrabCut", SIGGRAPH 2004), without weights.

GrabCut separates two colour models along edges, starting from what is probably the subject: what a
prompt names, else around the faces of a photo, or its centre where there is none. Positions
relative to a face are those in an aligned portrait (``faces``), as shares of its side from the top
left.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from PIL import Image

from osasis.errors import ImageError
from osasis.images.faces import find_faces, require_detector
from osasis.images.geometry import SquarePlacement
from osasis.segmenting.prompts import NO_PROMPT, Prompt
from osasis.segmenting.refine import refine, scaled_down

# Longest side of the copy that is segmented, in pixels.
SIDE = 384
ITERATIONS = 5
# Ellipses in an aligned portrait: centre and radii across and down.
INNER_FACE = (0.49, 0.47, 0.25, 0.34)
FACE = (0.49, 0.46, 0.29, 0.39)
HEAD = (0.49, 0.40, 0.40, 0.50)
# How far long hair and hats reach, and most hair.
REACH, HAIR = (0.49, 0.55, 0.72, 0.74), (0.49, 0.42, 0.47, 0.56)
SHOULDERS = 0.78
# Radii, as shares of the longer side, around a point of a prompt: what is the subject, and what may
# be.
POINT, AROUND = 0.02, 0.3
# Share of what surrounds the heads above which it is not hair.
LEAK = 0.53
Ellipse = tuple[float, float, float, float]


def grabcut(image: Image.Image, region: str, prompt: Prompt = NO_PROMPT) -> np.ndarray:
    """The mask of a region, (H, W) in [0, 1], float32: ``subject`` or ``face``.

    image: "RGB". prompt: where the subject is. Several people are one mask. Raises ImageError for
    ``face`` where no face is found, UserError where OpenCV is not installed.
    """
    require_detector()
    small = scaled_down(image, SIDE)
    if prompt:
        return refine(_prompted(np.asarray(small), prompt), small, image)
    scale = small.width / image.width, small.height / image.height
    places = [_on_small(place.scaled(*scale), small.size) for place in find_faces(image)]
    if region == "face" and not places:
        raise ImageError("image", "no face is found; the mask face needs one")
    pixels = np.asarray(small)
    found = _subject(pixels, places)
    if region == "face":
        found = np.any([_face(pixels, place, found) for place in places], axis=0)
    return refine(found, small, image)


def _on_small(place: SquarePlacement, size: tuple[int, int]) -> np.ndarray:
    """Positions of the pixels' centres in a face's portrait, (2, H, W)."""
    y, x = np.mgrid[: size[1], : size[0]] + 0.5
    across = place.ux * x + place.uy * y + place.u0
    down = place.vx * x + place.vy * y + place.v0
    return (np.stack([across, down]) + 1) / 2


def _inside(at: np.ndarray, ellipse: Ellipse) -> np.ndarray:
    cx, cy, rx, ry = ellipse
    return ((at[0] - cx) / rx) ** 2 + ((at[1] - cy) / ry) ** 2 <= 1


def _subject(pixels: np.ndarray, places: list[np.ndarray]) -> np.ndarray:
    """The people, or what is in the centre, (H, W) bool."""
    if not places:
        return _centre(pixels)
    found = _people(pixels, places, REACH)
    around = ~np.any([_inside(at, HAIR) | (at[1] > SHOULDERS) for at in places], axis=0)
    # A background that resembles the person was taken for a part of it.
    if around.any() and found[around].mean() > LEAK:
        return _people(pixels, places, HAIR)
    return found


def _prompted(pixels: np.ndarray, prompt: Prompt) -> np.ndarray:
    """What is at the points, or in the box, (H, W) bool."""
    cv2 = _cv2()
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width] + 0.5
    distance = np.full((height, width), np.inf)
    for across, down in prompt.points:
        from_point = np.hypot(x - across * width, y - down * height) / max(width, height)
        distance = np.minimum(distance, from_point)
    if prompt.box is None:
        allowed, probable = np.ones((height, width), bool), distance <= AROUND
    else:
        left, top, right, bottom = np.array(prompt.box) * [width, height, width, height]
        allowed = probable = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    sure = distance <= POINT
    trimap = np.full((height, width), cv2.GC_BGD, np.uint8)
    trimap[allowed] = cv2.GC_PR_BGD
    trimap[probable] = cv2.GC_PR_FGD
    trimap[sure] = cv2.GC_FGD
    found = _cut(pixels, trimap)
    return _connected(found, sure if sure.any() else found)


def _centre(pixels: np.ndarray) -> np.ndarray:
    cv2 = _cv2()
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width]
    at = np.stack([(x + 0.5) / width, (y + 0.5) / height])
    trimap = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
    trimap[_inside(at, (0.5, 0.5, 0.38, 0.42))] = cv2.GC_PR_FGD
    trimap[~_inside(at, (0.5, 0.5, 0.66, 0.66))] = cv2.GC_BGD
    sure = _inside(at, (0.5, 0.5, 0.1, 0.1))
    trimap[sure] = cv2.GC_FGD
    return _connected(_cut(pixels, trimap), sure)


def _people(pixels: np.ndarray, places: list[np.ndarray], reach: Ellipse) -> np.ndarray:
    """reach: outside of it, and above the shoulders, is background."""
    cv2 = _cv2()
    trimap = np.full(pixels.shape[:2], cv2.GC_PR_BGD, np.uint8)
    reached, sure = np.zeros(pixels.shape[:2], bool), np.zeros(pixels.shape[:2], bool)
    for at in places:
        across = np.abs(at[0] - INNER_FACE[0])
        body = (at[1] > SHOULDERS) & (across < np.minimum(0.2 + 1.6 * (at[1] - SHOULDERS), 1))
        trimap[_inside(at, HEAD) | body] = cv2.GC_PR_FGD
        reached |= _inside(at, reach) | ((at[1] > SHOULDERS) & (across < 1.5))
        # Face and neck, and the chest, whose clothes have other colours than both.
        neck = (at[1] > 0.6) & (at[1] < 1.4) & (across < 0.13)
        chest = (at[1] > 0.92) & (at[1] < 1.4) & (across < 0.2 + 1.2 * (at[1] - 0.92))
        sure |= _inside(at, INNER_FACE) | neck | chest
    trimap[~reached] = cv2.GC_BGD
    trimap[sure] = cv2.GC_FGD
    return _connected(_cut(pixels, trimap), sure)


def _face(pixels: np.ndarray, at: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """The skin of a face, with what is inside of it, (H, W) bool."""
    cv2 = _cv2()
    trimap = np.full(pixels.shape[:2], cv2.GC_BGD, np.uint8)
    trimap[_inside(at, HEAD) & subject] = cv2.GC_PR_BGD
    trimap[_inside(at, FACE)] = cv2.GC_PR_FGD
    trimap[at[1] > 0.86] = cv2.GC_BGD
    sure = _inside(at, INNER_FACE)
    trimap[sure] = cv2.GC_FGD
    return _connected(_cut(pixels, trimap), sure) & _inside(at, (0.49, 0.46, 0.33, 0.42))


def _cut(pixels: np.ndarray, trimap: np.ndarray) -> np.ndarray:
    """GrabCut from a first division, (H, W) bool."""
    cv2 = _cv2()
    kinds = np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if kinds.all() or not kinds.any():  # GrabCut needs pixels of both kinds
        return kinds
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    image = np.ascontiguousarray(pixels[..., ::-1])
    cv2.grabCut(image, trimap, None, *models, ITERATIONS, cv2.GC_INIT_WITH_MASK)
    return np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD))


def _connected(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The parts of a mask that contain seeds, without narrow threads and with their holes."""
    cv2 = _cv2()
    kernel = np.ones((3, 3), np.uint8)
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel) | seeds
    _, labels = cv2.connectedComponents(opened.astype(np.uint8))
    kept = np.isin(labels, np.unique(labels[seeds & (opened > 0)])) & (labels > 0)
    count, outside, stats, _ = cv2.connectedComponentsWithStats((~kept).astype(np.uint8))
    largest = kept.size // 50
    for label in range(1, count):
        left, top, width, height, area = stats[label]
        at_border = left == 0 or top == 0 or left + width == kept.shape[1]
        at_border |= top + height == kept.shape[0]
        if not at_border and area < largest:
            kept |= outside == label
    return kept


def _cv2() -> Any:
    return importlib.import_module("cv2")

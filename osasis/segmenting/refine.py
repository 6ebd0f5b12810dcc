"""Soft masks at a photo's resolution from masks of a small copy, by a guided filter.

He, Sun: "Fast Guided Filter" (2015): the mask is fitted as an affine function of the small copy's
colours in a window around each pixel; the coefficients are enlarged and applied to the photo, so
that the mask follows the photo's edges.
"""

from __future__ import annotations

import importlib

import numpy as np
from PIL import Image

# Window in pixels of the small copy, and the variance of colours in [0, 1] that counts as flat.
RADIUS = 4
SMOOTHNESS = 2e-4
# Values below and above become exactly 0 and 1.
LOW, HIGH = 0.15, 0.85
# Pixels of the small copy by which a soft border may reach beyond the mask.
REACH = 3
STRIP_PIXELS = 1 << 20


def scaled_down(image: Image.Image, side: int) -> Image.Image:
    """A copy with a longest side of at most ``side`` pixels."""
    scale = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)


def refine(mask: np.ndarray, small: Image.Image, image: Image.Image) -> np.ndarray:
    """The mask of a photo, (H, W) in [0, 1], float32, from that of its small copy.

    mask: (h, w), bool or in [0, 1], of the small copy. small, image: "RGB".
    """
    cv2 = importlib.import_module("cv2")
    values = np.asarray(mask, np.float32)
    kernel = np.ones((2 * REACH + 1,) * 2, np.uint8)
    near = cv2.dilate((values > 0.5).astype(np.uint8), kernel).astype(np.float32)
    far = 1 - cv2.erode((values > 0.5).astype(np.uint8), kernel).astype(np.float32)
    borders = np.stack([near, far], -1)
    planes = np.ascontiguousarray(np.concatenate([_coefficients(values, small), borders], -1))
    size = image.size
    out = np.empty((size[1], size[0]), np.float32)
    pixels = np.asarray(image)
    rows = max(1, STRIP_PIXELS // size[0])
    for top in range(0, size[1], rows):
        bottom = min(size[1], top + rows)
        # The part of the small copy below this strip, with a margin for the interpolation.
        large = _enlarged(planes, size, top, bottom)
        guide = pixels[top:bottom].astype(np.float32) / 255
        fitted = (large[..., :3] * guide).sum(-1) + large[..., 3]
        soft = np.clip((fitted - LOW) / (HIGH - LOW), 0, 1)
        soft = np.where(large[..., 4] > 0, soft, 0)
        out[top:bottom] = np.where(large[..., 5] > 0, soft, 1)
    return out


def _enlarged(planes: np.ndarray, size: tuple[int, int], top: int, bottom: int) -> np.ndarray:
    """Rows top to bottom of planes (h, w, n) enlarged bilinearly to width and height ``size``."""
    cv2 = importlib.import_module("cv2")
    x = (np.arange(size[0], dtype=np.float32) + 0.5) * planes.shape[1] / size[0] - 0.5
    y = (np.arange(top, bottom, dtype=np.float32) + 0.5) * planes.shape[0] / size[1] - 0.5
    grid = np.broadcast_to(x, (len(y), len(x))), np.broadcast_to(y[:, None], (len(y), len(x)))
    parts = [
        cv2.remap(
            planes[..., part], *map(np.ascontiguousarray, grid), cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        for part in (slice(0, 4), slice(4, 6))
    ]  # fmt: skip
    return np.concatenate(parts, -1)


def _coefficients(values: np.ndarray, small: Image.Image) -> np.ndarray:
    """Three factors and an offset of the affine fit at each pixel, (h, w, 4)."""
    cv2 = importlib.import_module("cv2")

    def mean(x: np.ndarray) -> np.ndarray:
        side = 2 * RADIUS + 1
        found: np.ndarray = cv2.blur(x, (side, side), borderType=cv2.BORDER_REPLICATE)
        return found

    guide = np.asarray(small, np.float32) / 255
    centre, target = mean(guide), mean(values)
    pairs = [(i, j) for i in range(3) for j in range(3)]
    cov = np.stack([mean(guide[..., i] * guide[..., j]) for i, j in pairs], -1)
    cov -= np.stack([centre[..., i] * centre[..., j] for i, j in pairs], -1)
    cross = np.stack([mean(guide[..., i] * values) for i in range(3)], -1)
    cross -= centre * target[..., None]
    matrix = cov.reshape(*values.shape, 3, 3) + SMOOTHNESS * np.eye(3)
    factors = np.linalg.solve(matrix, cross[..., None])[..., 0]
    offset = target - (factors * centre).sum(-1)
    found = np.concatenate([factors, offset[..., None]], -1).astype(np.float32)
    return mean(found)

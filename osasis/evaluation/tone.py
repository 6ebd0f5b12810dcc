"""Tone: how the lightness of stylized faces follows the lightness of the photos' faces."""

from __future__ import annotations

import math

import numpy as np

from osasis.evaluation.lab import to_lab
from osasis.evaluation.metric import Metric, Pair, Picture

# Cheeks and nose of an aligned portrait: left, top, right, bottom as shares of the sides.
FACE_BOX = (0.32, 0.45, 0.68, 0.68)
# Faces below this L* count as dark.
DARK = 52.0
# A face is lightened if its L* rises by more than this.
LIGHTENED = 3.0
BACKBONE = "CIE L*"
SOURCE = "median CIE L* of cheeks and nose of an aligned portrait (this project)"


def face_lightness(picture: Picture) -> float:
    """Median L* inside FACE_BOX."""
    height, width = picture.pixels.shape[1:]
    left, top, right, bottom = FACE_BOX
    box = picture.pixels[:, int(top * height) : int(bottom * height),
                         int(left * width) : int(right * width)]  # fmt: skip
    return float(np.median(to_lab(box)[..., 0]))


def measure_tone(pair: Pair) -> tuple[float, float]:
    """L* of the photo's face and of the stylization's."""
    pictures = (pair.photo, pair.stylized)
    before, after = (p.once("face lightness", face_lightness) for p in pictures)
    return before, after


def tone_slope(rows: np.ndarray) -> float:
    """Slope of output L* against input L* (least squares). rows: (N, 2).

    1: differences are kept; 0: all faces become equally light. NaN below two lightnesses.
    """
    before, after = rows[:, 0], rows[:, 1]
    spread = before - before.mean()
    if len(rows) < 2 or not (total := float((spread**2).sum())) > 1e-9:
        return math.nan
    return float((spread * (after - after.mean())).sum()) / total


def lightened_dark(rows: np.ndarray) -> float:
    """Share of the dark faces whose L* rises by more than LIGHTENED; NaN without dark faces."""
    return _lightened(rows[rows[:, 0] < DARK])


def lightened_light(rows: np.ndarray) -> float:
    """Share of the other faces whose L* rises by more than LIGHTENED; NaN without such faces."""
    return _lightened(rows[rows[:, 0] >= DARK])


def _lightened(rows: np.ndarray) -> float:
    return float((rows[:, 1] - rows[:, 0] > LIGHTENED).mean()) if len(rows) else math.nan


def tone_metrics() -> list[Metric]:
    """``tone_slope``, ``lightened_dark`` and ``lightened_light``."""
    return [
        Metric("tone_slope", False, BACKBONE, SOURCE, measure_tone, tone_slope),
        Metric("lightened_dark", True, BACKBONE, SOURCE, measure_tone, lightened_dark),
        Metric("lightened_light", True, BACKBONE, SOURCE, measure_tone, lightened_light),
    ]

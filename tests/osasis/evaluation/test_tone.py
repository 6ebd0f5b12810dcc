"""Lightness and tone metrics against hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from osasis.evaluation.metric import Pair, Picture
from osasis.evaluation.tone import (
    face_lightness,
    lightened_dark,
    lightened_light,
    tone_metrics,
    tone_slope,
)


def grey(level: int, size: int = 50) -> Picture:
    return Picture(torch.full((3, size, size), level / 127.5 - 1))


def test_only_the_face_counts() -> None:
    picture = grey(119).pixels.clone()
    picture[:, :20] = 1.0
    picture[:, :, :15] = -1.0
    assert face_lightness(Picture(picture)) == pytest.approx(50.03, abs=0.01)


def test_slope_is_that_of_least_squares() -> None:
    rows = np.array([[30.0, 50.0], [50.0, 55.0], [70.0, 72.0], [45.0, 51.0]])
    assert tone_slope(rows) == pytest.approx(np.polyfit(rows[:, 0], rows[:, 1], 1)[0])
    assert tone_slope(rows[::-1]) == pytest.approx(tone_slope(rows))
    assert math.isnan(tone_slope(rows[:1]))


def test_lightened_shares_split_faces_at_52() -> None:
    rows = np.array([[40.0, 43.1], [51.9, 54.0], [20.0, 30.0], [52.0, 56.0], [80.0, 60.0]])
    assert lightened_dark(rows) == pytest.approx(2 / 3)
    assert lightened_light(rows) == pytest.approx(1 / 2)
    assert math.isnan(lightened_dark(rows[3:]))


def test_metrics_of_pairs() -> None:
    pairs = [
        Pair(grey(a), grey(b), grey(0), grey(0)) for a, b in ((60, 90), (100, 120), (200, 200))
    ]
    measured = {m.name: m.of(pairs) for m in tone_metrics()}
    levels = np.array([[face_lightness(p.photo), face_lightness(p.stylized)] for p in pairs])
    assert measured["tone_slope"] == pytest.approx(np.polyfit(levels[:, 0], levels[:, 1], 1)[0])
    assert 0 < measured["tone_slope"] < 1
    assert measured["lightened_dark"] == 1 and measured["lightened_light"] == 0

"""Timesteps of respaced schedules."""

from __future__ import annotations

import numpy as np
import pytest

from osasis.diffusion import _allowed_steps, stride_timesteps
from osasis.errors import UserError


def test_leading_spacing() -> None:
    assert stride_timesteps(20).tolist() == list(range(0, 1000, 50))
    assert stride_timesteps(3).tolist() == [0, 334, 668]
    assert stride_timesteps(1000).tolist() == list(range(1000))


@pytest.mark.parametrize("steps", [2, 4, 10, 20, 50, 100, 200])
def test_trailing_spacing(steps: int) -> None:
    t = stride_timesteps(steps, "trailing")
    assert (len(t), t[-1], t[steps // 2 - 1]) == (steps, 999, 500)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_timesteps_never_repeat(spacing: str) -> None:
    possible = [n for n in range(1, 1001) if n in _allowed_steps()]
    assert len(possible) > 50
    for steps in possible:
        t = stride_timesteps(steps, spacing)
        assert t[0] >= 0 and t[-1] <= 999 and (np.diff(t) > 0).all(), steps


@pytest.mark.parametrize(
    ("steps", "nearest"), [(0, 1), (-5, 1), (300, 334), (700, 500), (990, 1000), (2000, 1000)]
)
def test_impossible_step_counts_name_the_nearest(steps: int, nearest: int) -> None:
    with pytest.raises(UserError, match=f"{steps} steps.*nearest possible number is {nearest}$"):
        stride_timesteps(steps)
    assert len(stride_timesteps(nearest)) == nearest

"""CIE L*a*b* against published values, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from osasis.evaluation.lab import from_lab, to_lab


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((119, 119, 119), (50.03, 0.0, 0.0)),
        ((3, 3, 3), (0.8225, 0.0, 0.0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
    ],
)
def test_lab_of_srgb_colours(rgb: tuple[int, ...], lab: tuple[float, ...]) -> None:
    pixels = (torch.tensor(rgb, dtype=torch.float32) / 127.5 - 1).view(3, 1, 1)
    assert np.allclose(to_lab(pixels)[0, 0], lab, atol=0.03)


def test_conversion_back_gives_the_image() -> None:
    pixels = torch.rand(3, 9, 7, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.allclose(from_lab(to_lab(pixels)), pixels, atol=1e-5)
    outside = from_lab(np.array([[[50.0, 200.0, 0.0]]]))
    assert outside.abs().max() <= 1 and outside[0] == 1

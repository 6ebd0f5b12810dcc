"""Evaluation of a base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from osasis.bundles.base import Base
from osasis.pretraining.evaluate_base import (
    draw_samples,
    evaluate_base,
    reconstruct,
    save_evaluation_grids,
)


def test_more_steps_reduce_the_inversion_error(
    tiny_base: Base, images: Callable[..., Tensor]
) -> None:
    photos = images(3, 21)

    def error(steps: int) -> float:
        return float((reconstruct(tiny_base, photos, t0=0.5, steps=steps) - photos).pow(2).mean())

    assert error(100) < error(10)


def test_evaluation_reports_every_photo(
    tiny_base: Base, images: Callable[..., Tensor], tmp_path: Path
) -> None:
    photos = images(3, 22)
    found, samples = evaluate_base(tiny_base, photos, steps=10, samples=5)
    assert found.inversion_mse.keys() == {"0.5", "1"}
    assert found.inversion_mse["0.5"] < found.inversion_mse["1"]
    assert len(found.by_photo) == 3
    assert abs(float(np.mean(found.by_photo)) - found.stochastic_lpips) < 1e-6
    assert samples.shape == (5, *photos.shape[1:]) and found.frechet is not None
    save_evaluation_grids(tiny_base, photos, samples, 10, tmp_path)
    with Image.open(tmp_path / "reconstructions.png") as sheet:
        side = photos.shape[-1]
        assert sheet.size == (3 * side + 4, 3 * side + 4)


def test_samples_depend_on_the_seed_only(tiny_base: Base) -> None:
    first = draw_samples(tiny_base, 3, steps=4, seed=1)
    assert torch.equal(first, draw_samples(tiny_base, 9, steps=4, seed=1)[:3])
    assert not torch.equal(first, draw_samples(tiny_base, 3, steps=4, seed=2))

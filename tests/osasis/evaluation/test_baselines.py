"""Baselines: their definitions and their seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from osasis.bundles.base import Base
from osasis.errors import UserError
from osasis.evaluation.baselines import (
    CONTENT_STAGE,
    check_baselines,
    gatys,
    gram,
    reinhard,
    sdedit,
    style_error,
)
from osasis.evaluation.lab import to_lab
from osasis.evaluation.names import GATYS_WEIGHT, parse_baseline
from osasis.guides.perceptual import PerceptualNet
from osasis.images.tensors import image_to_tensor
from tests.tiny import SIZE, make_perceptual_file, picture


def image(seed: int) -> Tensor:
    return image_to_tensor(picture(seed, (SIZE, SIZE)))


def test_colour_transfer_gives_the_style_images_means_and_deviations() -> None:
    photo = image(1) * 0.2
    style = image(2) * 0.2 + 0.1
    found, target = to_lab(reinhard(photo, style)), to_lab(style)
    assert np.allclose(found.mean((0, 1)), target.mean((0, 1)), atol=0.02)
    assert np.allclose(found.std((0, 1)), target.std((0, 1)), atol=0.02)
    assert torch.allclose(reinhard(photo, photo), photo, atol=1e-5)


def test_gram_and_its_error_are_those_of_the_paper() -> None:
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]])  # two channels, two positions
    assert gram(features).tolist() == [[5.0, 1.0], [1.0, 10.0]]
    # (5^2 + 1 + 1 + 10^2) / (4 * 2^2 * 2^2)
    assert float(style_error(features, torch.zeros(2, 2))) == pytest.approx(127 / 64)


def test_gatys_moves_the_statistics_and_repeats(tmp_path: Path) -> None:
    net = PerceptualNet("vgg", make_perceptual_file(tmp_path / "vgg.safetensors", "vgg"))
    photo, style = image(1), image(2)

    def errors(x: Tensor) -> float:
        targets = [gram(f) for f in net.stages(style[None], 5)]
        maps = net.stages(x[None], 5)
        return float(sum(style_error(f, g) for f, g in zip(maps, targets, strict=True)))

    made = gatys(photo, style, net, iterations=5, style_weight=1e6)
    assert errors(made) < errors(photo) / 2
    assert torch.equal(made, gatys(photo, style, net, iterations=5, style_weight=1e6))
    kept = gatys(photo, style, net, iterations=5, style_weight=0.0)
    assert torch.allclose(kept, photo, atol=1e-5)
    assert net.stage_count > CONTENT_STAGE


def test_sdedit_depends_on_style_and_seed(tiny_base: Base) -> None:
    photo, style = image(1), image(2)
    made = sdedit(tiny_base, photo, style, seed=3)
    assert made.shape == photo.shape and made.abs().max() <= 1
    assert torch.equal(made, sdedit(tiny_base, photo, style, seed=3))
    assert not torch.equal(made, sdedit(tiny_base, photo, style, seed=4))
    assert not torch.equal(made, sdedit(tiny_base, photo, image(5), seed=3))


def test_unknown_baselines_and_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown baseline 'gaty'"):
        check_baselines(("gaty",), None)
    with pytest.raises(UserError, match=r"lpips_vgg\.safetensors"):
        check_baselines(("gatys",), tmp_path)
    check_baselines(("reinhard", "sdedit"), None)
    assert parse_baseline("gatys=1e6") == ("gatys", 1e6)
    assert parse_baseline("gatys") == ("gatys", GATYS_WEIGHT)
    for text in ("gatys=0", "gatys=much", "reinhard=2"):
        with pytest.raises(UserError, match="only gatys takes a value"):
            parse_baseline(text)

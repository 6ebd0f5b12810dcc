"""The losses of training one style."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from osasis.bundles.base import Base
from osasis.losses import (
    LOSS_NAMES,
    StyleLoss,
    directional_loss,
    edge_loss,
    relative_distance,
)
from osasis.settings import TrainSettings

Settings = Callable[..., TrainSettings]
WEIGHTS = (
    ("cross_domain", "cross_dom"),
    ("in_domain", "in_dom"),
    ("recon_guide", "recon_clip"),
    ("recon_l1", "recon_l1"),
    ("recon_lpips", "recon_lpips"),
    ("style_match", "style_match"),
    ("structure", "structure"),
)


@pytest.fixture
def directions() -> Tensor:
    return torch.linspace(-1, 1, 2 * 3 * 5).view(2, 3, 5) ** 3 + 0.1


def test_directional_loss_of_parallel_and_opposite(directions: Tensor) -> None:
    assert directional_loss(directions, 7 * directions) == pytest.approx(0, abs=1e-6)
    assert directional_loss(directions, -0.1 * directions) == pytest.approx(2, abs=1e-6)
    right = torch.tensor([[[1.0, 0.0]]])
    up = torch.tensor([[[0.0, 3.0]]])
    assert directional_loss(right, up) == pytest.approx(1, abs=1e-6)
    assert directional_loss(right, right + up / 3) == pytest.approx(1 - 0.5**0.5, abs=1e-6)


def test_directional_loss_is_the_mean_over_groups(directions: Tensor) -> None:
    one = directions[:1]
    mixed = one.clone()
    mixed[:, 0] *= -1
    assert directional_loss(one, mixed) == pytest.approx(2 / 3, abs=1e-6)
    # A batch of one is broadcast.
    both = torch.cat([one, -one])
    assert directional_loss(both, one) == pytest.approx(1, abs=1e-6)


def test_edge_loss_ignores_palette_contrast_and_brightness(images: Callable[..., Tensor]) -> None:
    a = images(2, seed=4)
    assert edge_loss(a, 0.4 * a + 0.3) == pytest.approx(0, abs=1e-5)
    tint = torch.tensor([0.5, -0.2, 0.1]).view(1, 3, 1, 1)
    assert edge_loss(a, a + tint) == pytest.approx(0, abs=1e-5)
    grey = a.mean(dim=1, keepdim=True)
    sepia = grey * torch.tensor([1.0, 0.8, 0.5]).view(1, 3, 1, 1)
    assert edge_loss(grey.expand_as(a), sepia) == pytest.approx(0, abs=1e-5)


def test_edge_loss_depends_on_the_position_of_edges(images: Callable[..., Tensor]) -> None:
    a, other = images(2, seed=4), images(2, seed=5)
    assert edge_loss(a, -a) == pytest.approx(2, abs=1e-5)
    assert edge_loss(a, other) > 0.6
    assert edge_loss(a, a.roll(3, dims=3)) > 0.3


def test_relative_distance_of_style_and_counterpart() -> None:
    style, own = torch.ones(1, 2, 4), -torch.ones(1, 2, 4)
    both = style.expand(3, -1, -1)
    assert relative_distance(both, style, own) == 0
    assert relative_distance(own.expand(3, -1, -1), style, own) == pytest.approx(1)
    assert relative_distance((style + own) / 2, style, own) == pytest.approx(0.25)


def losses(
    base: Base, settings: TrainSettings, images: Callable[..., Tensor], embed_seed: int = 32
) -> tuple[Tensor, dict[str, Tensor]]:
    style, counterpart = images(1, 30), images(1, 31)
    loss = StyleLoss(base.guide, base.perceptual, settings, style, counterpart)
    photo = images(2, embed_seed)
    return loss(images(2, 33), images(1, 34), photo, loss.embed(photo))


def test_total_is_the_sum_of_the_parts(
    tiny_base: Base, tiny_settings: Settings, images: Callable[..., Tensor]
) -> None:
    settings = tiny_settings(style_match=1.5, structure=2.0)
    total, parts = losses(tiny_base, settings, images)
    assert set(parts) == set(LOSS_NAMES)
    assert all(float(parts[k]) > 1e-3 for k in parts)
    own = sum(float(v) for k, v in parts.items() if k != "total")
    assert float(total) == pytest.approx(own, rel=1e-6)
    assert float(parts["total"]) == float(total)


@pytest.mark.parametrize(("field", "part"), WEIGHTS)
def test_a_weight_scales_its_part_only(
    tiny_base: Base,
    tiny_settings: Settings,
    images: Callable[..., Tensor],
    field: str,
    part: str,
) -> None:
    before = tiny_settings(style_match=1.0, structure=1.0)
    after = tiny_settings(
        **{"style_match": 1.0, "structure": 1.0, field: 3 * getattr(before, field)}
    )
    _, a = losses(tiny_base, before, images)
    _, b = losses(tiny_base, after, images)
    for name in LOSS_NAMES[:-1]:
        factor = 3 if name == part else 1
        assert float(b[name]) == pytest.approx(factor * float(a[name]), rel=1e-5), name


def test_additional_losses_of_weight_zero_are_not_computed(
    tiny_base: Base, tiny_settings: Settings, images: Callable[..., Tensor]
) -> None:
    _, parts = losses(tiny_base, tiny_settings(), images)
    assert "style_match" not in parts and "structure" not in parts


def test_reconstruction_of_the_style_image_itself(
    tiny_base: Base, tiny_settings: Settings, images: Callable[..., Tensor]
) -> None:
    style, photo = images(1, 30), images(2, 32)
    settings = tiny_settings(style_match=1.0)
    loss = StyleLoss(tiny_base.guide, tiny_base.perceptual, settings, style, images(1, 31))
    _, parts = loss(style.repeat(2, 1, 1, 1), style, photo, loss.embed(photo))
    for name in ("recon_clip", "recon_l1", "recon_lpips", "style_match"):
        assert float(parts[name]) == pytest.approx(0, abs=2e-5), name
    # Photos with the same difference as the counterpart have no cross-domain loss.
    _, parts = loss(style, style, images(1, 31), loss.embed(images(1, 31)))
    assert float(parts["cross_dom"]) == pytest.approx(0, abs=1e-5)


def test_gradients_reach_both_branches(
    tiny_base: Base, tiny_settings: Settings, images: Callable[..., Tensor]
) -> None:
    loss = StyleLoss(
        tiny_base.guide, tiny_base.perceptual, tiny_settings(), images(1, 30), images(1, 31)
    )
    content, style = images(2, 33).requires_grad_(), images(1, 34).requires_grad_()
    photo = images(2, 32)
    loss(content, style, photo, loss.embed(photo))[0].backward()
    for picture in (content, style):
        assert picture.grad is not None and picture.grad.abs().sum() > 1e-3


def test_embeddings_are_normalised_on_request(
    tiny_base: Base, tiny_settings: Settings, images: Callable[..., Tensor]
) -> None:
    for flag in (True, False):
        settings = tiny_settings(normalise_embeddings=flag)
        loss = StyleLoss(
            tiny_base.guide, tiny_base.perceptual, settings, images(1, 30), images(1, 31)
        )
        norms = loss.embed(images(3)).norm(dim=-1)
        assert torch.allclose(norms, torch.ones_like(norms), atol=1e-5) == flag

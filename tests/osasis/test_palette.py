"""Colour statistics and their transfer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from osasis.palette import Palette, transfer_palette

Images = Callable[..., Tensor]
EVERYWHERE = torch.ones(1, 1, 1, 1)


def test_a_transfer_gives_mean_and_covariance_of_the_palette(images: Images) -> None:
    photos, style = 0.5 * images(2, 1), 0.2 * images(1, 2)[0] + 0.1
    palette = Palette.of(style)
    moved = transfer_palette(photos, palette, EVERYWHERE)
    for image in moved:
        made = Palette.of(image)
        torch.testing.assert_close(made.mean, palette.mean, atol=1e-3, rtol=0)
        torch.testing.assert_close(made.covariance, palette.covariance, atol=1e-3, rtol=0)
    torch.testing.assert_close(palette.mean, style.mean(dim=(1, 2)), atol=1e-3, rtol=0)


def test_the_own_palette_changes_nothing(images: Images) -> None:
    photo = 0.9 * images(1, 3)
    same = transfer_palette(photo, Palette.of(photo[0]), EVERYWHERE)
    torch.testing.assert_close(same, photo, atol=2e-3, rtol=0)


def test_statistics_are_those_of_the_covered_pixels(images: Images) -> None:
    photo, palette = 0.5 * images(1, 4), Palette.of(0.3 * images(1, 5)[0])
    left = torch.zeros(1, 1, *photo.shape[2:])
    left[..., : photo.shape[3] // 2] = 1
    moved = transfer_palette(photo, palette, left)
    half = moved[0, :, :, : photo.shape[3] // 2]
    torch.testing.assert_close(half.mean(dim=(1, 2)), palette.mean, atol=1e-3, rtol=0)


def test_images_of_one_colour_take_the_mean(images: Images) -> None:
    grey = torch.full((1, 3, 8, 8), 0.25)
    palette = Palette.of(0.4 * images(1, 6)[0])
    moved = transfer_palette(grey, palette, EVERYWHERE)
    torch.testing.assert_close(moved[0, :, 0, 0], palette.mean, atol=1e-3, rtol=0)
    assert torch.isfinite(transfer_palette(images(1, 7), Palette.of(grey[0]), EVERYWHERE)).all()


def test_a_result_does_not_depend_on_the_batch(images: Images) -> None:
    photos, palette = images(3, 8), Palette.of(images(1, 9)[0])
    together = transfer_palette(photos, palette, EVERYWHERE)
    assert torch.equal(together[1:2], transfer_palette(photos[1:2], palette, EVERYWHERE))

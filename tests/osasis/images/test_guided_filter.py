"""Guided upsampling: identity, sharp edges, strokes, strips and feathering."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from osasis.images import guided_filter
from osasis.images.geometry import SquarePlacement, fit_square
from osasis.images.guided_filter import apply_colour_change, fit_colour_change, paste_square
from osasis.images.tensors import image_to_tensor, tensor_to_image

WHOLE = 64


def edge(size: int) -> Image.Image:
    """Dark left, light right; the edge is not on a pixel border of the square."""
    pixels = np.full((size, size, 3), (60, 70, 90), np.uint8)
    pixels[:, size * 53 // 128 :] = (200, 190, 160)
    return Image.fromarray(pixels)


def place(width: int, height: int) -> SquarePlacement:
    return SquarePlacement(2 / width, 0, -1, 0, 2 / height, -1)


def test_an_unchanged_square_gives_the_photo_bit_for_bit() -> None:
    rng = np.random.RandomState(0)
    photo = Image.fromarray(rng.randint(0, 256, (90, 130, 3), dtype=np.uint8))
    square = image_to_tensor(fit_square(photo, 32, "resize"))
    assert apply_colour_change(
        photo, fit_colour_change(square, square), place(130, 90)
    ).tobytes() == (photo.tobytes())


def test_edges_are_sharper_than_with_bicubic_enlargement() -> None:
    photo = edge(512)
    square = image_to_tensor(fit_square(photo, 32, "resize"))
    stylized = -0.8 * square  # a negative: an affine change of the colours
    sharp = np.asarray(
        apply_colour_change(photo, fit_colour_change(square, stylized), place(512, 512)), int
    )
    soft = np.asarray(tensor_to_image(stylized).resize((512, 512), Image.Resampling.BICUBIC), int)

    def steepest(image: np.ndarray) -> int:
        return int(np.abs(np.diff(image[256, :, 0])).max())

    whole_step = int(0.8 * 140)
    assert steepest(sharp) > 0.75 * whole_step
    assert steepest(soft) < 0.25 * whole_step
    # Far from the edge, the colours are those of the stylization.
    for x in (40, 470):
        wanted = 255 - (255 * (1 - 0.8) / 2 + 0.8 * np.asarray(photo, int)[256, x])
        assert np.abs(sharp[256, x] - wanted).max() <= 6


def test_strokes_of_the_stylization_are_kept() -> None:
    photo = Image.new("RGB", (256, 256), (128, 128, 128))
    square = image_to_tensor(fit_square(photo, 32, "resize"))
    stylized = square.clone()
    stylized[:, 16, :] = -1.0
    out = np.asarray(
        apply_colour_change(photo, fit_colour_change(square, stylized), place(256, 256)), int
    )
    assert out[132, 128].max() < 60
    assert abs(int(out[40, 128, 0]) - 128) < 12


def test_the_result_does_not_depend_on_the_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.RandomState(1)
    photo = Image.fromarray(rng.randint(0, 256, (150, 97, 3), dtype=np.uint8))
    square = image_to_tensor(fit_square(photo, 32))
    change = fit_colour_change(square, square.flip(0))
    at = SquarePlacement(2 / 97, 0, -1, 0, 2 / 97, -1 - 2 * 26 / 97)
    whole = apply_colour_change(photo, change, at)
    monkeypatch.setattr(guided_filter, "STRIP_PIXELS", 200)
    assert apply_colour_change(photo, change, at).tobytes() == whole.tobytes()


def test_a_pasted_square_fades_out_towards_its_border() -> None:
    photo = Image.new("RGB", (200, 100), (255, 255, 255))
    at = SquarePlacement(2 / 50, 0, -1 - 2 * 100 / 50, 0, 2 / 50, -1 - 2 * 25 / 50)
    assert at.bounds(200, 100) == (100, 25, 150, 75)
    out = np.asarray(paste_square(photo, -torch.ones(3, 16, 16), at, feather=0.35))[:, :, 0]
    assert out[50, 125] == 0
    column = out[50, 100:126].astype(int)
    assert column[0] > 240
    assert (np.diff(column) <= 0).all()
    outside = np.ones((100, 200), bool)
    outside[25:75, 100:150] = False
    assert (out[outside] == 255).all()

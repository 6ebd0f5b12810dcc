"""Transparent photos: no background and no hidden colour reaches the picture that is stylized."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from osasis.images.transparency import separate_alpha


def cut_out(size: int, hidden: tuple[int, int, int], scale: int = 8) -> Image.Image:
    """A disc, red on the left and blue on the right, with smooth edges, on ``hidden`` colours."""
    alpha = Image.new("L", (size * scale, size * scale))
    edge = size * scale // 5
    ImageDraw.Draw(alpha).ellipse([edge, edge, size * scale - edge, size * scale - edge], fill=255)
    alpha = alpha.resize((size, size), Image.Resampling.BOX)
    colours = np.full((size, size, 3), hidden, np.uint8)
    visible = np.asarray(alpha) > 0
    colours[:, : size // 2][visible[:, : size // 2]] = (200, 40, 40)
    colours[:, size // 2 :][visible[:, size // 2 :]] = (40, 40, 200)
    image = Image.fromarray(colours)
    image.putalpha(alpha)
    return image


def test_a_photo_without_transparency_is_returned_as_it_is() -> None:
    photo = Image.new("RGB", (9, 7), (1, 2, 3))
    assert separate_alpha(photo, keep=True) == (photo, None)
    assert separate_alpha(photo, keep=False) == (photo, None)


@pytest.mark.parametrize("size", [40, 128, 700, 1500])
def test_transparent_pixels_take_the_colours_around_them(size: int) -> None:
    picture, alpha = separate_alpha(cut_out(size, (0, 255, 0)), keep=True)
    assert alpha is not None and alpha.size == picture.size == (size, size)
    pixels = np.asarray(picture).astype(int)
    # Neither the hidden green nor white or black: only mixtures of the disc's two colours.
    assert np.abs(pixels[..., 1] - 40).max() <= 2
    assert np.abs(pixels[..., 0] + pixels[..., 2] - 240).max() <= 6
    assert pixels[size // 2, 2].tolist() == pytest.approx([200, 40, 40], abs=24)
    assert pixels[size // 2, -3].tolist() == pytest.approx([40, 40, 200], abs=24)


def test_the_hidden_colours_do_not_matter() -> None:
    one, _ = separate_alpha(cut_out(64, (0, 255, 0)), keep=True)
    other, _ = separate_alpha(cut_out(64, (255, 255, 255)), keep=True)
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_opaque_pixels_and_alpha_are_kept_exactly() -> None:
    photo = cut_out(90, (0, 0, 0))
    picture, alpha = separate_alpha(photo, keep=True)
    assert alpha is not None
    np.testing.assert_array_equal(np.asarray(alpha), np.asarray(photo)[..., 3])
    opaque = np.asarray(alpha) == 255
    np.testing.assert_array_equal(np.asarray(picture)[opaque], np.asarray(photo)[opaque][:, :3])


def test_dropped_transparency_is_composited_over_white() -> None:
    photo = Image.new("RGBA", (8, 8), (200, 0, 100, 128))
    picture, alpha = separate_alpha(photo, keep=False)
    assert alpha is None
    assert picture.getpixel((3, 3)) == (227, 127, 177)


@pytest.mark.parametrize("size", [(1, 9), (9, 1), (1, 1), (13, 5)])
def test_thin_photos_and_photos_without_an_opaque_pixel(size: tuple[int, int]) -> None:
    picture, alpha = separate_alpha(Image.new("RGBA", size, (9, 9, 9, 0)), keep=True)
    assert alpha is not None and picture.size == size
    assert picture.getcolors() == [(size[0] * size[1], (255, 255, 255))]
    photo = Image.new("RGBA", size, (9, 9, 9, 0))
    photo.putpixel((size[0] - 1, size[1] - 1), (80, 90, 100, 1))
    picture, _ = separate_alpha(photo, keep=True)
    assert np.abs(np.asarray(picture).astype(int) - [80, 90, 100]).max() <= 1

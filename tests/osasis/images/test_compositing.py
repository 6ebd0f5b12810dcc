"""Compositing of stylized squares: output size, surroundings and seams."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from osasis.images.compositing import composite_into_photo, downscaled_photo, photo_needed
from osasis.images.geometry import fit_square, placement_for_fit

SQUARE = 32


def smooth(width: int, height: int, seed: int = 3) -> Image.Image:
    coarse = np.random.RandomState(seed).randint(40, 216, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("fit", ["crop", "pad", "resize"])
@pytest.mark.parametrize("size", [(64, 64), (200, 90), (70, 301), (20, 12), (400, 9)])
@pytest.mark.parametrize("detail", [False, True])
def test_the_output_has_the_photos_size_and_an_unchanged_square_gives_the_photo(
    fit: str, size: tuple[int, int], detail: bool
) -> None:
    photo = smooth(*size)
    square = fit_square(photo, SQUARE, fit)
    need = photo_needed(size, fit, detail)
    given = {"": None, "small": downscaled_photo(photo, SQUARE), "whole": photo}[need]
    places = [placement_for_fit(size, SQUARE, fit)]
    out = composite_into_photo(size, fit, places, [square], [square], photo=given, detail=detail)
    assert out.size == size
    difference = np.abs(np.asarray(out, int) - np.asarray(photo, int))
    # Enlarging blurs the photo, most of all one that is 9 pixels high.
    assert difference.mean() < (0.01 if detail else 40 if min(size) < 10 else 6)


def test_the_cropped_parts_get_the_colour_change_of_the_square() -> None:
    photo = smooth(160, 64)
    square = fit_square(photo, SQUARE)
    dark = square.point(lambda v: v // 2)
    places = [placement_for_fit(photo.size, SQUARE, "crop")]
    for detail in (False, True):
        given = photo if detail else downscaled_photo(photo, SQUARE)
        out = composite_into_photo(
            photo.size, "crop", places, [square], [dark], photo=given, detail=detail
        )
        before, after = (np.asarray(i, float) for i in (photo, out))
        for part in (slice(0, 40), slice(56, 104), slice(120, 160)):
            share = after[:, part].mean() / before[:, part].mean()
            assert 0.42 < share < 0.58


@pytest.mark.parametrize("detail", [False, True])
@pytest.mark.parametrize("upright", [False, True])
def test_the_border_of_a_cropped_square_is_not_visible(detail: bool, upright: bool) -> None:
    """A stylization with strokes and a frame of artefacts at its border."""
    grey = Image.new("RGB", (192, 64), (120, 130, 140))
    photo = grey.transpose(Image.Transpose.ROTATE_90) if upright else grey
    square = fit_square(photo, SQUARE)
    pixels = np.full((SQUARE, SQUARE, 3), (200, 170, 110), np.uint8)
    pixels[::4] = (90, 60, 30)
    pixels[:, ::4] = (90, 60, 30)
    pixels[[0, -1]] = pixels[:, [0, -1]] = (20, 160, 20)  # border artefacts of networks
    places = [placement_for_fit(photo.size, SQUARE, "crop")]
    given = photo if detail else downscaled_photo(photo, SQUARE)
    back = composite_into_photo(
        photo.size, "crop", places, [square], [Image.fromarray(pixels)], photo=given, detail=detail
    )
    out = np.asarray(back, float)
    out = out.transpose(1, 0, 2) if upright else out
    # No streaks or steps beside the square.
    for beside in (out[:, :63], out[:, 129:]):
        assert np.abs(np.diff(beside, axis=0)).max() <= 2
        assert np.abs(np.diff(beside, axis=1)).max() <= 4
    # Strokes fade towards the border of the square.
    middle = np.abs(np.diff(out[:, 80:112], axis=1)).mean()
    ends = np.abs(np.diff(out[:, 62:66], axis=1)).mean()
    assert ends < middle / 4
    # Far from the square, the photo has its mean colour.
    assert np.abs(out[:, :8].mean((0, 1)) - pixels.mean((0, 1))).max() < 12


def test_padding_is_cropped_from_the_output() -> None:
    photo = Image.new("RGB", (80, 40), (200, 200, 200))
    square = fit_square(photo, SQUARE, "pad")
    stylized = Image.new("RGB", (SQUARE, SQUARE), (255, 0, 0))
    stylized.paste((0, 0, 255), (0, 8, SQUARE, 24))  # where the photo lies
    out = composite_into_photo(
        (80, 40), "pad", [placement_for_fit((80, 40), SQUARE, "pad")], [square], [stylized]
    )
    assert out.size == (80, 40)
    assert np.asarray(out).reshape(-1, 3).mean(0) == pytest.approx([0, 0, 255], abs=1)

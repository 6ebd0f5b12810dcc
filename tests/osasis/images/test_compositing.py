"""The way to the base's square and back: sizes, places, and what stands beside the square."""

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
    # Enlarged again the photo is softer, and one of 9 pixels lost most of what it had.
    assert difference.mean() < (0.01 if detail else 40 if min(size) < 10 else 6)


def test_what_is_cropped_away_takes_the_squares_change() -> None:
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
def test_no_line_shows_where_a_cropped_square_ends(detail: bool, upright: bool) -> None:
    """A style of strokes, whose border pixels stand for nothing: a frame, and bars across it."""
    grey = Image.new("RGB", (192, 64), (120, 130, 140))
    photo = grey.transpose(Image.Transpose.ROTATE_90) if upright else grey
    square = fit_square(photo, SQUARE)
    pixels = np.full((SQUARE, SQUARE, 3), (200, 170, 110), np.uint8)
    pixels[::4] = (90, 60, 30)
    pixels[:, ::4] = (90, 60, 30)
    pixels[[0, -1]] = pixels[:, [0, -1]] = (20, 160, 20)  # as networks leave borders
    places = [placement_for_fit(photo.size, SQUARE, "crop")]
    given = photo if detail else downscaled_photo(photo, SQUARE)
    back = composite_into_photo(
        photo.size, "crop", places, [square], [Image.fromarray(pixels)], photo=given, detail=detail
    )
    out = np.asarray(back, float)
    out = out.transpose(1, 0, 2) if upright else out
    # Beside the square nothing is drawn on that the photo does not hold: no streaks, no steps.
    for beside in (out[:, :63], out[:, 129:]):
        assert np.abs(np.diff(beside, axis=0)).max() <= 2
        assert np.abs(np.diff(beside, axis=1)).max() <= 4
    # In the middle the strokes are there; towards its ends they fade.
    middle = np.abs(np.diff(out[:, 80:112], axis=1)).mean()
    ends = np.abs(np.diff(out[:, 62:66], axis=1)).mean()
    assert ends < middle / 4
    # The far ends take the square's mean colour, as near as a flat photo can have it.
    assert np.abs(out[:, :8].mean((0, 1)) - pixels.mean((0, 1))).max() < 12


def test_padding_is_left_out_of_the_output() -> None:
    photo = Image.new("RGB", (80, 40), (200, 200, 200))
    square = fit_square(photo, SQUARE, "pad")
    stylized = Image.new("RGB", (SQUARE, SQUARE), (255, 0, 0))
    stylized.paste((0, 0, 255), (0, 8, SQUARE, 24))  # where the photo lies
    out = composite_into_photo(
        (80, 40), "pad", [placement_for_fit((80, 40), SQUARE, "pad")], [square], [stylized]
    )
    assert out.size == (80, 40)
    assert np.asarray(out).reshape(-1, 3).mean(0) == pytest.approx([0, 0, 255], abs=1)

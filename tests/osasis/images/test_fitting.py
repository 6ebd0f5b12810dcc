"""Photos fitted to squares, and put back: crop boxes, rows, and boxes around faces."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from osasis.errors import FitError
from osasis.images.decoding import read_png
from osasis.images.fitting import Compositor, FittedPhoto, fit_photo
from osasis.images.geometry import SquarePlacement
from osasis.images.photo_options import PhotoOptions
from osasis.validation import InvalidInputError

SQUARE = 32


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(40, 200, width), np.linspace(40, 200, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 120)], -1).astype(np.uint8))


def fitted(image: Image.Image, **options: Any) -> tuple[FittedPhoto, PhotoOptions]:
    chosen = PhotoOptions.parse(options)
    return fit_photo(encoded(image), SQUARE, chosen, keep_alpha=True), chosen


@pytest.mark.parametrize("detail", [False, True])
@pytest.mark.parametrize("box", ["0,0,40", "100,20,40", "50,8,64", "0,0,80"])
def test_a_crop_box_is_stylized_in_its_place(box: str, detail: bool) -> None:
    photo = gradient(160, 80)
    found, options = fitted(photo, crop=box, detail=detail)
    x, y, side = found.box or (0, 0, 0)
    inside = photo.crop((x, y, x + side, y + side)).resize((SQUARE, SQUARE))
    (square,) = (read_png(s) for s in found.squares)
    assert np.abs(np.asarray(square, int) - np.asarray(inside, int)).mean() < 2
    # An unchanged square gives the photo, an inverted corner of it changes that corner most.
    same = Compositor(found, options).composite([square])
    assert same.size == photo.size
    assert np.abs(np.asarray(same, int) - np.asarray(photo, int)).mean() < 4
    marked = square.copy()
    marked.paste((255, 0, 0), (12, 12, 20, 20))
    changed = Compositor(found, options).composite([marked])
    change = np.abs(np.asarray(changed, int) - np.asarray(same, int)).max(-1)
    middle = change[
        y + side * 7 // 16 : y + side * 9 // 16, x + side * 7 // 16 : x + side * 9 // 16
    ]
    outside = np.delete(change, range(x, x + side), axis=1)
    assert middle.mean() > 50 and outside.mean() < 20


def test_a_box_of_a_jpeg_is_in_the_pixels_of_the_file() -> None:
    """Large JPEGs can be decoded at a smaller size, unless a box is cut from them."""
    photo = gradient(1600, 800)
    options = PhotoOptions.parse({"crop": {"x": 1200, "y": 100, "side": 320}, "size": "base"})
    found = fit_photo(encoded(photo, "JPEG"), SQUARE, options, keep_alpha=False)
    want = photo.crop((1200, 100, 1520, 420)).resize((SQUARE, SQUARE))
    got = read_png(found.squares[0])
    assert np.abs(np.asarray(got, int) - np.asarray(want, int)).mean() < 2
    assert found.photo is None


def test_rows_hold_everything() -> None:
    cut = gradient(90, 50).convert("RGBA")
    cut.paste((0, 0, 0, 0), (0, 0, 20, 50))
    for options in ({}, {"crop": "10,0,50"}, {"fit": "pad", "size": "base"}):
        found, _ = fitted(cut, **options)
        assert FittedPhoto.from_row(found.to_row()) == found
        assert found.transparent and found.alpha is not None


def test_options_that_contradict_each_other_are_refused() -> None:
    for options, field in (
        ({"crop": "1,2,30", "fit": "pad"}, "crop"),
        ({"fit": "align", "size": "base"}, "size"),
        ({"crop": "1,2"}, "crop"),
        ({"crop": "1,2,7"}, "crop.side"),
    ):
        with pytest.raises(InvalidInputError) as refused:
            PhotoOptions.parse(options)
        assert [p.field for p in refused.value.problems] == [field]
    with pytest.raises(FitError, match="crop 150,0,30 reaches beyond the photo's 160x80") as e:
        fitted(gradient(160, 80), crop="150,0,30")
    assert e.value.option == "crop"
    copied = type(e.value)(*e.value.args)
    assert (str(copied), copied.option) == (str(e.value), "crop")


def test_the_box_around_a_face_lies_inside_the_photo() -> None:
    # Turned by 30 degrees, with a side of 40 pixels.
    u = np.array([np.cos(np.pi / 6), np.sin(np.pi / 6)]) / 20
    at = (70.0, 20.0)
    place = SquarePlacement(u[0], u[1], -float(u @ at), -u[1], u[0],
                            -float(np.array([-u[1], u[0]]) @ at))  # fmt: skip
    assert place.upright_box((200, 100)) == (50, 0, 40)
    assert place.upright_box((80, 60)) == (40, 0, 40)
    assert place.upright_box((30, 25)) == (5, 0, 25)
    corners = np.array(place.corners())
    np.testing.assert_allclose(corners.mean(0), at, atol=1e-6)
    np.testing.assert_allclose(np.hypot(*(corners[1] - corners[0])), 40, atol=1e-6)
    moved = replace(place, u0=place.u0 - 2)
    assert moved.upright_box((200, 100))[0] > 50


@pytest.mark.parametrize("size", ["photo", "base"])
@pytest.mark.parametrize(
    ("shape", "inner"), [((160, 80), (64, 32)), ((50, 71), (32, 48)), ((40, 40), (32, 32))]
)
def test_the_whole_photo_keeps_its_shape(
    shape: tuple[int, int], inner: tuple[int, int], size: str
) -> None:
    photo = gradient(*shape)
    found, options = fitted(photo, fit="whole", size=size)
    (square,) = (read_png(s) for s in found.squares)
    # Sides are multiples of 8, the shorter one the base's.
    assert square.size == inner
    out = Compositor(found, options).composite([square])
    assert out.size == (shape if size == "photo" else inner)
    expected = photo.resize(out.size)
    assert np.abs(np.asarray(out, int) - np.asarray(expected, int)).mean() < 4


def test_the_detail_of_a_whole_photo_is_its_own() -> None:
    photo = gradient(160, 80)
    found, options = fitted(photo, fit="whole", detail=True)
    (square,) = (read_png(s) for s in found.squares)
    darker = square.point([v // 2 for v in range(256)] * 3)
    out = Compositor(found, options).composite([darker])
    assert np.abs(np.asarray(out, int) - np.asarray(photo, int) // 2).mean() < 4


def test_a_strip_has_no_whole_shape() -> None:
    with pytest.raises(FitError, match="it has 900x40 pixels; the longer side may have at most 4"):
        fitted(gradient(900, 40), fit="whole")

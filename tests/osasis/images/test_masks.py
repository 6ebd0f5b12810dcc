"""What a mask file means: its transparency or its lightness; and which photos it fits."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from osasis.errors import ImageError
from osasis.images.masks import (
    coverage,
    fit_mask,
    mask_on_photo,
    read_mask,
    shape_problem,
    shares_inside,
)
from osasis.images.photo_options import PhotoOptions
from tests.osasis.images.odd_pictures import encode

SQUARE = np.zeros((32, 32), bool)
SQUARE[8:24, 8:24] = True
WANT = np.where(SQUARE, 255, 0)


def mask(inside: tuple[int, ...], outside: tuple[int, ...]) -> Image.Image:
    return Image.fromarray(np.where(SQUARE[..., None], inside, outside).astype(np.uint8))


def meaning(image: Image.Image, kind: str = "PNG", **options: object) -> np.ndarray:
    found = read_mask(encode(image, kind, **options), "masks.a")
    assert found.size == image.size and found.mode == "L"
    return np.asarray(found)


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ((255, 255, 255), (0, 0, 0)),
        ((255, 255, 255, 255), (0, 0, 0, 255)),  # an alpha channel that says nothing
        ((255, 255, 255, 90), (0, 0, 0, 90)),
        ((255, 255, 255, 255), (255, 255, 255, 0)),  # white on an empty layer
        ((255, 255, 255, 255), (0, 0, 0, 0)),
        ((220, 40, 40, 255), (220, 40, 40, 0)),  # a coloured brush
        ((255, 255, 255, 255), (40, 200, 90, 0)),  # colours of transparent pixels mean nothing
    ],
)
def test_the_square_is_the_mask(inside: tuple[int, ...], outside: tuple[int, ...]) -> None:
    np.testing.assert_array_equal(meaning(mask(inside, outside)), WANT)


def test_soft_edges_come_from_the_alpha_channel() -> None:
    alpha = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
    layer = Image.new("RGB", (32, 32), "white")
    layer.putalpha(Image.fromarray(alpha))
    np.testing.assert_array_equal(meaning(layer), alpha)
    # Stored as lightness too: both say the same.
    both = Image.merge("LA", [Image.fromarray(alpha)] * 2)
    np.testing.assert_array_equal(meaning(both), alpha)
    lossy = meaning(layer, "WEBP", quality=60)
    np.testing.assert_allclose(lossy.astype(int), alpha, atol=2)


def test_grey_of_16_bits_and_palettes_are_masks_by_lightness() -> None:
    deep = Image.fromarray(np.where(SQUARE, 65535, 0).astype(np.uint16))
    np.testing.assert_array_equal(meaning(deep), WANT)
    np.testing.assert_array_equal(meaning(mask((255,) * 3, (0,) * 3).convert("P")), WANT)


PHOTO = np.random.default_rng(5).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("image", "want"),
    [
        # Black on an empty layer, and a hole in black: the one is the other's opposite.
        (mask((0, 0, 0, 255), (0, 0, 0, 0)), "its opaque part is black"),
        (mask((0, 0, 0, 0), (0, 0, 0, 255)), "its opaque part is black"),
        # A photo with a hole, as for the edits of other programs.
        (Image.fromarray(np.dstack([PHOTO, 255 - WANT.astype(np.uint8)])), "several tones"),
        # Black and white, partly transparent.
        (Image.fromarray(np.dstack([WANT, WANT, WANT, PHOTO[..., 0]]).astype(np.uint8)), "tones"),
    ],
)
def test_two_meanings_are_refused_and_named(image: Image.Image, want: str) -> None:
    with pytest.raises(ImageError) as caught:
        read_mask(encode(image, "PNG"), "masks.a")
    text = str(caught.value)
    assert text.startswith("masks.a: the mask has transparency, and ") and want in text
    assert "where the mask is opaque, or where it is" in text
    assert text.endswith("without transparency, white where the style shows and black elsewhere")


def test_an_empty_layer_is_refused() -> None:
    with pytest.raises(ImageError, match=r"masks\.a: the mask is transparent everywhere; save it"):
        read_mask(encode(Image.new("RGBA", (32, 32)), "PNG"), "masks.a")


@pytest.mark.parametrize(
    ("mask_size", "photo"),
    [
        ((300, 200), (300, 200)),
        ((150, 100), (3000, 2000)),
        ((64, 43), (6000, 4000)),  # a scaled copy
        ((1000, 667), (6000, 4000)),
        ((256, 256), (6000, 4000)),  # for the base's square
    ],
)
def test_a_mask_fits_a_photo_of_its_aspect_ratio(
    mask_size: tuple[int, int], photo: tuple[int, int]
) -> None:
    assert shape_problem(mask_size, photo) == ""


@pytest.mark.parametrize(
    ("mask_size", "photo"), [((300, 200), (200, 300)), ((300, 200), (200, 200))]
)
def test_a_mask_of_another_shape_is_refused(
    mask_size: tuple[int, int], photo: tuple[int, int]
) -> None:
    assert shape_problem(mask_size, photo) == (
        f"has 300x200 pixels, but the photo has {photo[0]}x{photo[1]}; give the mask the photo's "
        "aspect ratio, or make it square for the base's square"
    )


def grey(values: list[list[int]]) -> Image.Image:
    return Image.fromarray(np.array(values, np.uint8))


def test_a_mask_of_the_photos_size_is_its_mask_even_where_it_is_square() -> None:
    """Another square mask is the mask of the base's square."""
    options = PhotoOptions.parse({"crop": "16,16,16"})
    whole = Image.fromarray(np.where(SQUARE, 255, 0).astype(np.uint8))
    assert mask_on_photo(whole, (32, 32), options) is whole
    part = np.asarray(fit_mask(whole, 16, options, (32, 32)))
    assert (part[:8, :8].min(), part[8:].max()) == (255, 0)
    small = whole.resize((16, 16))
    np.testing.assert_array_equal(fit_mask(small, 16, options, (32, 32)), small)
    placed = np.asarray(mask_on_photo(small, (32, 32), options))
    np.testing.assert_array_equal(placed[16:, 16:], small)
    assert not placed[:16].any()


@pytest.mark.parametrize(
    ("fit", "want"),
    [
        ("resize", np.tile([0, 0, 0, 255, 255, 255], (3, 1))),
        ("whole", np.tile([0, 0, 0, 255, 255, 255], (3, 1))),
        # The square is columns 1 to 3, and its border is continued.
        ("crop", np.tile([0, 0, 0, 255, 255, 255], (3, 1))),
        ("pad", np.tile([0, 0, 0, 255, 255, 255], (3, 1))),
    ],
)
def test_a_square_mask_lies_where_the_square_is(fit: str, want: np.ndarray) -> None:
    mask = Image.fromarray(np.tile(np.repeat([0, 255], 300), (600, 1)).astype(np.uint8))
    found = np.asarray(mask_on_photo(mask, (600, 300), PhotoOptions.parse({"fit": fit})))
    np.testing.assert_array_equal(found[50::100, 50::100], want)


def test_with_fit_whole_a_mask_has_the_shape_of_the_photos_picture() -> None:
    options = PhotoOptions(fit="whole")
    for mask in (Image.new("L", (300, 200), 255), Image.new("L", (64, 64), 255)):
        fitted = np.asarray(fit_mask(mask, 32, options, (301, 199)))
        assert fitted.shape == (32, 48) and fitted.min() == 255


def test_composing_masks_are_relative_to_what_they_cover() -> None:
    """So that the stylization is complete wherever compositing shows any of it."""
    a, b = grey([[0, 50, 200, 255]]), grey([[0, 100, 0, 255]])
    cover = coverage([a, b])
    assert np.asarray(cover).tolist() == [[0, 100, 200, 255]]
    inside = shares_inside({"a": a, "b": b}, ["a", "b"])
    assert np.asarray(inside["a"]).tolist() == [[0, 128, 255, 255]]
    assert np.asarray(inside["b"]).tolist() == [[0, 255, 0, 255]]
    # A style without a mask covers the picture: nothing is composited.
    assert shares_inside({"a": a}, ["a", None]) == {"a": a}

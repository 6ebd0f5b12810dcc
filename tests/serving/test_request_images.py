"""Decoding of clients' images, and checks before decoding."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from osasis.images.decoding import reads_kind
from osasis.images.fitting import FittedPhoto
from osasis.images.photo_options import PhotoOptions
from osasis.segmenting import Segmenter
from osasis.segmenting.prompts import Prompt
from serving.config import Limits
from serving.errors import ApiError
from serving.request_images import (
    check_header,
    fitted_photo,
    photo_faces,
    to_pixels,
)
from serving.request_masks import proposed_mask, sent_masks
from tests.serving.test_http import animation, bomb
from tests.tiny import picture


def saved(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture(1, (64, 48)).save(buffer, kind, **options)
    return buffer.getvalue()


def fitted(data: bytes, limits: Limits | None = None, **options: object) -> FittedPhoto:
    chosen = PhotoOptions.parse(options)
    return fitted_photo(data, "image", 32, chosen, True, limits or Limits())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "PPM", "GIF"])
def test_photos_become_squares_without_metadata(kind: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "at home"
    found = fitted(saved(kind, exif=exif.tobytes()))
    assert found.size == (64, 48)
    assert to_pixels(found.squares[0]).shape == (32, 32, 3)
    assert b"at home" not in found.squares[0] + (found.photo or b"")


@pytest.mark.skipif(not reads_kind("HEIC"), reason="the extra heif is not installed")
def test_heic_photos_are_read() -> None:
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture(1, (64, 48))).save(buffer)
    assert fitted(buffer.getvalue()).size == (64, 48)


def test_a_jpeg_with_an_appended_image_is_read_as_its_first() -> None:
    two = saved("MPO", save_all=True, append_images=[picture(2, (64, 48))])
    assert two.startswith(b"\xff\xd8\xff")
    assert fitted(two).squares == fitted(saved("JPEG")).squares


def test_pixels_and_frames_are_checked_in_the_header() -> None:
    tracemalloc.start()
    with pytest.raises(ApiError) as e:
        check_header(bomb(), "image", Limits())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (e.value.status, e.value.value) == (413, 60_000**2) and peak < 5_000_000
    with pytest.raises(ApiError) as e:
        check_header(saved("PNG"), "image", Limits(pixels=64 * 48 - 1))
    assert (e.value.status, e.value.value) == (413, 64 * 48)
    check_header(saved("PNG"), "image", Limits(pixels=64 * 48))
    more = {"save_all": True, "append_images": [picture(2, (64, 48))]}
    for data in (animation(), *(saved(kind, **more) for kind in ("WEBP", "GIF", "TIFF", "AVIF"))):
        with pytest.raises(ApiError) as e:
            check_header(data, "image", Limits())
        assert (e.value.status, e.value.value) == (422, 2)
        check_header(data, "image", Limits(frames=2))


@pytest.mark.parametrize(
    "data", [b"", b"%PDF-1.7", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\0\0\0\x18ftypisom"]
)
def test_other_formats_are_refused(data: bytes) -> None:
    with pytest.raises(ApiError) as e:
        check_header(data, "image", Limits())
    assert e.value.status == 415 and {"PNG", "JPEG", "WEBP", "AVIF"} <= set(e.value.allowed)


def test_a_crop_box_beyond_the_photo_names_the_field() -> None:
    with pytest.raises(ApiError, match="crop 40,0,30 reaches beyond the photo's 64x48") as e:
        fitted(saved("PNG"), crop="40,0,30")
    assert (e.value.status, e.value.field) == (422, "crop")


def test_photos_without_a_face() -> None:
    with pytest.raises(ApiError, match="no face is found") as e:
        fitted(saved("PNG"), fit="align")
    assert (e.value.status, e.value.field) == (422, "fit")
    assert fitted(saved("PNG"), fit="align", no_face="crop").fit == "crop"
    assert fitted(saved("PNG"), fit="align", no_face="keep").squares == ()
    assert photo_faces(saved("PNG"), "image", Limits()) == ((64, 48), [])


def test_masks_are_cropped_like_the_photo_unless_they_are_square() -> None:
    pixels = np.zeros((48, 64), np.uint8)
    pixels[8:24, 40:56] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    options = PhotoOptions.parse({"crop": "40,8,16"})
    masks = sent_masks({"m": buffer.getvalue()}, options, Limits())
    png = masks.on_square(["m"], 32, options, (64, 48), True)["m"]
    assert masks.images["m"].size == (64, 48) and to_pixels(png)[3:-3, 3:-3].min() == 255
    square = io.BytesIO()
    Image.fromarray(pixels[:, :48]).save(square, "PNG")
    masks = sent_masks({"m": square.getvalue()}, options, Limits())
    png = masks.on_square(["m"], 32, options, (64, 48), True)["m"]
    assert 0 < (to_pixels(png) > 128).mean() < 0.2
    with pytest.raises(ApiError, match="masks cannot be combined with fit align") as e:
        sent_masks({"m": square.getvalue()}, PhotoOptions(fit="align"), Limits())
    assert e.value.status == 422


def test_a_text_that_the_servers_segmenter_cannot_use_is_named() -> None:
    with pytest.raises(ApiError, match="texts are for the segmenter fastsam") as e:
        proposed_mask(saved("PNG"), "image", "subject", Prompt(text="a hat"), Segmenter(), Limits())
    assert (e.value.status, e.value.field) == (422, "text")

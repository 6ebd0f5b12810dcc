"""Decoding of clients' images, and checks before decoding."""

from __future__ import annotations

import io
import tracemalloc

import pytest
from PIL import Image

from serving.config import Limits
from serving.errors import ApiError
from serving.request_images import check_header, square_photo, to_pixels
from tests.serving.test_http import animation, bomb
from tests.tiny import picture


def saved(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture(1, (64, 48)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_allowed_formats_become_a_square_without_metadata(kind: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "at home"
    png = square_photo(saved(kind, exif=exif.tobytes()), "image", 32, "crop", Limits()).png
    assert to_pixels(png).shape == (32, 32, 3)
    assert b"at home" not in png and png.startswith(b"\x89PNG")


def test_a_jpeg_with_an_appended_image_is_read_as_its_first() -> None:
    two = saved("MPO", save_all=True, append_images=[picture(2, (64, 48))])
    assert two.startswith(b"\xff\xd8\xff")
    one = square_photo(saved("JPEG"), "image", 32, "crop", Limits()).png
    assert (to_pixels(square_photo(two, "image", 32, "crop", Limits()).png) == to_pixels(one)).all()


def test_pixels_and_frames_are_checked_in_the_header() -> None:
    tracemalloc.start()
    with pytest.raises(ApiError) as e:
        check_header(bomb(), "image", Limits())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Pillow's own limit raises first; the error has its count of pixels.
    assert (e.value.status, peak < 5_000_000) == (413, True) and e.value.value > 1_000_000
    with pytest.raises(ApiError) as e:
        check_header(saved("PNG"), "image", Limits(pixels=64 * 48 - 1))
    assert (e.value.status, e.value.value) == (413, 64 * 48)
    check_header(saved("PNG"), "image", Limits(pixels=64 * 48))
    moving = saved("WEBP", save_all=True, append_images=[picture(2, (64, 48))])
    for data in (animation(), moving):
        with pytest.raises(ApiError) as e:
            check_header(data, "image", Limits())
        assert (e.value.status, e.value.value) == (422, 2)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(ApiError) as e:
        check_header(saved(kind), "image", Limits())
    assert e.value.status == 415 and e.value.allowed == ["PNG", "JPEG", "WEBP"]

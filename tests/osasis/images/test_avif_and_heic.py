"""AVIF, and HEIC with the extra `heif`: pictures as viewers show them, and refusals."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from osasis.bundles.provenance import kept_exif, read_provenance
from osasis.errors import ImageError
from osasis.images.decoding import HEIF_EXTRA, load_image, load_sized, reads_kind
from tests.tiny import picture

ORIENTATION, ARTIST = 0x0112, 0x013B
KINDS = ("AVIF", "HEIC")


def encode(image: Image.Image, kind: str, exif: Image.Exif | None = None) -> bytes:
    out = io.BytesIO()
    block: dict[str, Any] = {"exif": exif.tobytes()} if exif else {}
    if kind == "AVIF":
        image.save(out, "AVIF", quality=100, subsampling="4:4:4", **block)
    else:
        heif = pillow_heif.from_pillow(image)
        heif.save(out, quality=-1, chroma=444, **block)
    return out.getvalue()


def far(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_a_photo_is_read(kind: str) -> None:
    photo = picture(1, (48, 64))
    image, size = load_sized(encode(photo, kind), target=16)
    assert (image.mode, image.size, size) == ("RGB", photo.size, photo.size)
    assert far(image, photo) < 2
    assert read_provenance(encode(photo, kind)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_orientation_is_applied_once(kind: str) -> None:
    photo = picture(2, (48, 64))
    exif = Image.Exif()
    exif[ORIENTATION], exif[ARTIST] = 6, "Ada"
    data = encode(photo, kind, exif)
    upright = photo.transpose(Image.Transpose.ROTATE_270)
    image, size = load_sized(data)
    assert image.size == size == upright.size
    assert far(image, upright) < 2
    kept = Image.Exif()
    kept.load(kept_exif(data) or b"")
    assert (kept[ORIENTATION], kept[ARTIST]) == (1, "Ada")


@pytest.mark.parametrize("kind", KINDS)
def test_transparent_pixels_are_composited_over_white(kind: str) -> None:
    photo = picture(3, (32, 32)).convert("RGBA")
    photo.paste((0, 0, 0, 0), (0, 0, 16, 32))
    image = load_image(encode(photo, kind))
    assert image.getpixel((4, 4)) == (255, 255, 255)
    assert far(image.crop((18, 0, 32, 32)), photo.convert("RGB").crop((18, 0, 32, 32))) < 3


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_pixels_and_damage_are_refused(kind: str) -> None:
    data = encode(picture(4, (40, 30)), kind)
    with pytest.raises(ImageError) as large:
        load_image(data, name="x", max_pixels=1000)
    assert str(large.value).startswith("x: too many pixels: ")
    for cut in (40, len(data) // 2, len(data) - 20):
        with pytest.raises(ImageError) as damaged:
            load_image(data[:cut], name="x")
        assert str(damaged.value).startswith(f"x: the {kind} data is truncated")


def test_heic_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(picture(5), "HEIC")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert not reads_kind("HEIC")
    with pytest.raises(ImageError) as refused:
        load_image(data, name="x")
    assert str(refused.value) == f"x: {HEIF_EXTRA}"

"""Helpers that build unusual image files and read them."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from osasis.errors import ImageError
from osasis.images.decoding import load_image

ALLOWED = "PNG, JPEG, WEBP, GIF, TIFF, BMP, PPM and AVIF files are read"
RNG = np.random.default_rng(7)
NOISE = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)


def encode(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(tag: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG that Pillow cannot write: 16-bit colour, or a header with a wrong size."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = b"".join(extra) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def png_rows(samples: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)


def pixels(source: str | os.PathLike[str] | bytes, **options: Any) -> np.ndarray:
    image = load_image(source, **options)
    assert type(image) is Image.Image
    assert image.mode == "RGB"
    assert image.info == {}
    return np.asarray(image)


def colour(source: bytes) -> list[int]:
    """The colour of a picture of one colour."""
    found = np.unique(pixels(source).reshape(-1, 3), axis=0)
    assert len(found) == 1, found
    return found[0].tolist()


def refusal(source: str | os.PathLike[str] | bytes, **options: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError) as caught:
            load_image(source, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert text == f"{caught.value.name}: {caught.value.reason}"
    return text

"""TIFFs of 16 bits and float that Pillow does not read, and other files that Pillow opens oddly."""

from __future__ import annotations

import io
import logging
import struct
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from osasis.images.decoding import load_sized
from tests.osasis.images.odd_pictures import chunk, colour, encode, pixels, raw_png, refusal


def tiff(values: Any, photometric: str = "rgb", **options: Any) -> bytes:
    buffer = io.BytesIO()
    options.setdefault("metadata", None)
    tifffile.imwrite(buffer, np.asarray(values), photometric=photometric, **options)
    return buffer.getvalue()


def lab_tiff(values: np.ndarray, photometric: int) -> bytes:
    """A TIFF whose colour space is CIE Lab (8) or ICC Lab (9), which tifffile does not write."""
    data = bytearray(tiff(values))
    entry = struct.pack("<HHIH", 262, 3, 1, 2)
    at = data.index(entry)
    data[at + 8 : at + 10] = struct.pack("<H", photometric)
    return bytes(data)


RAMP = np.linspace(0, 1, 16)
FLOAT_RGB = np.tile(np.stack([RAMP, RAMP[::-1], RAMP * 0 + 0.5], -1), (8, 1, 1))
WANT_RGB = np.rint(FLOAT_RGB * 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_float_colour_is_scaled_and_rounded(kind: str, planar: str) -> None:
    values = FLOAT_RGB.astype(kind)
    if planar == "separate":
        values = np.moveaxis(values, -1, 0)
    got = pixels(tiff(values, planarconfig=planar))
    np.testing.assert_allclose(got, WANT_RGB, atol=int(kind == "float16"))


def test_float_colour_by_its_largest_value() -> None:
    for white in (255.0, 65535.0, 3e6):
        np.testing.assert_array_equal(pixels(tiff((FLOAT_RGB * white).astype("f4"))), WANT_RGB)


def test_float_grey_of_64_bits() -> None:
    got = pixels(tiff(np.tile(RAMP, (8, 1)), "minisblack"))
    np.testing.assert_array_equal(got[0, :, 0], np.rint(RAMP * 255))


def test_grey_with_alpha_of_16_bits() -> None:
    values = np.full((8, 8, 2), [257 * 100 + 100, 65535], np.uint16)
    values[4:, :, 1] = 0
    got = pixels(tiff(values, "minisblack", extrasamples=["unassalpha"]))
    assert got[0, 0].tolist() == [100] * 3
    assert got[7, 0].tolist() == [255] * 3
    inverted = pixels(tiff(values, "miniswhite", extrasamples=["unassalpha"]))
    assert inverted[0, 0].tolist() == [155] * 3


@pytest.mark.parametrize("kind", ["float32", "uint16"])
def test_alpha_that_the_colours_were_multiplied_with(kind: str) -> None:
    scale = 1 if kind == "float32" else 65535
    values = (np.full((8, 8, 4), [0.4, 0.2, 0.0, 0.5]) * scale).astype(kind)
    values[0, 0] = np.array([1, 1, 1, 1]) * scale
    image, _ = load_sized(tiff(values, extrasamples=["assocalpha"]), alpha=True)
    assert image.mode == "RGBA"
    np.testing.assert_allclose(image.getpixel((5, 5)), [204, 102, 0, 128], atol=1)


@pytest.mark.parametrize("bits", [8, 16])
def test_lab_of_8_and_16_bits_is_the_same_colour(bits: int) -> None:
    unit = 2 ** (bits - 8)
    top = 2**bits - 1
    # Red and green of sRGB in CIE Lab at D50, a* and b* in whole units.
    signed = np.array([round(0.5429 * top), 81 * unit, 70 * unit]).astype(f"u{bits // 8}")
    got = colour(lab_tiff(np.full((8, 8, 3), signed), 8))
    np.testing.assert_allclose(got, [255, 0, 0], atol=6)
    negative = np.array([round(0.8782 * top), -79 * unit % 2**bits, 81 * unit])
    got = colour(lab_tiff(np.full((8, 8, 3), negative.astype(f"u{bits // 8}")), 8))
    np.testing.assert_allclose(got, [0, 255, 0], atol=16)
    shifted = np.array([round(0.5429 * 255 * unit), (81 + 128) * unit, (70 + 128) * unit])
    got = colour(lab_tiff(np.full((8, 8, 3), shifted.astype(f"u{bits // 8}")), 9))
    np.testing.assert_allclose(got, [255, 0, 0], atol=6)


def test_further_channels_and_cmyk_with_alpha() -> None:
    values = np.full((8, 8, 5), [65535, 257 * 128, 0, 1000, 65535], np.uint16)
    data = tiff(values, extrasamples=["unspecified", "unspecified"])
    assert colour(data) == [255, 128, 0]
    cmyk = np.full((8, 8, 5), [0, 65535, 65535, 0, 65535], np.uint16)
    assert colour(tiff(cmyk, "separated", extrasamples=["unassalpha"])) == [255, 0, 0]


def test_orientation_profile_and_size() -> None:
    values = (FLOAT_RGB * 65535).astype("f4")
    data = tiff(values, extratags=[(274, 3, 1, 6, True)])
    image, size = load_sized(data)
    assert image.size == size == (8, 16)
    np.testing.assert_array_equal(np.asarray(image), np.rot90(WANT_RGB, -1))
    assert "too many pixels: 16x8" in refusal(data, max_pixels=100)


@pytest.mark.parametrize(
    ("values", "photometric", "want"),
    [
        (np.zeros((8, 8), np.complex64), "minisblack", "a TIFF of complex numbers is not read"),
        (np.zeros((8, 8, 3), np.uint16), "ycbcr", "a TIFF of 3 x 16 bit with colours as YCBCR"),
        (np.zeros((8, 8, 6), np.uint16), "minisblack", "a TIFF of 6 x 16 bit holds no colours"),
        (np.zeros((8, 8, 6), np.float32), "minisblack", "6 x 32 bit float holds no colours"),
    ],
)
def test_other_kinds_are_refused_by_what_they_are(
    values: np.ndarray, photometric: str, want: str
) -> None:
    options = {"planarconfig": "contig"} if values.ndim == 3 else {}
    text = refusal(tiff(values, photometric, **options))
    assert want in text
    assert text.endswith("save it as RGB or grey of 8 or 16 bit")
    assert "damaged" not in text


def test_a_truncated_deep_tiff_is_refused_without_a_log(caplog: pytest.LogCaptureFixture) -> None:
    data = tiff(FLOAT_RGB.astype("f4"))
    with caplog.at_level(logging.DEBUG):
        for cut in (len(data) // 2, len(data) - 100, 100):
            assert "the TIFF data is truncated" in refusal(data[:cut])
    assert not [r for r in caplog.records if r.name == "tifffile"]


# ---------------------------------------------------------------- PNG and JPEG


def test_cmyk_jpeg_with_and_without_the_marker_of_adobe() -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    with_marker = encode(ink, "JPEG", quality=95)
    assert np.abs(pixels(with_marker).astype(int) - [255, 0, 0]).max() <= 3
    start = with_marker.index(b"\xff\xee")
    length = struct.unpack(">H", with_marker[start + 2 : start + 4])[0]
    without = with_marker[:start] + with_marker[start + 2 + length :]
    # As browsers do, inks are taken as inverted without the marker too.
    assert np.abs(pixels(without).astype(int) - [255, 0, 0]).max() <= 3


def test_one_bit_png_with_a_transparent_value() -> None:
    rows = b"".join(b"\0" + bytes([0xF0]) for _ in range(8))
    data = raw_png(8, 8, 1, 0, rows, chunk(b"tRNS", struct.pack(">H", 0)))
    image, _ = load_sized(data, alpha=True)
    assert image.getpixel((0, 0)) == (255, 255, 255, 255)
    assert image.getpixel((7, 0))[3] == 0


def test_alpha_is_kept_only_where_asked_and_there() -> None:
    samples = np.full((8, 8, 4), [200, 0, 100, 255], np.uint8)
    opaque, _ = load_sized(encode(samples, "PNG"), alpha=True)
    assert opaque.mode == "RGB"
    samples[0, 0, 3] = 3
    data = encode(samples, "PNG")
    assert load_sized(data, alpha=True)[0].getpixel((0, 0)) == (200, 0, 100, 3)
    assert load_sized(data)[0].mode == "RGB"

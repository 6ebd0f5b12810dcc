"""Decoding of unusual image files."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from osasis.images.decoding import load_image, png_bytes
from tests.osasis.images.odd_pictures import (
    NOISE,
    chunk,
    colour,
    encode,
    pixels,
    png_rows,
    raw_png,
    refusal,
)

# ---------------------------------------------------------------- plain pictures


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF", "WEBP"])
@pytest.mark.parametrize("as_bytes", [True, False], ids=["bytes", "path"])
def test_lossless_formats_round_trip(tmp_path: Path, kind: str, as_bytes: bool) -> None:
    data = encode(NOISE, kind, **({"lossless": True} if kind == "WEBP" else {}))
    path = tmp_path / "wrong-suffix.txt"
    path.write_bytes(data)
    np.testing.assert_array_equal(pixels(data if as_bytes else path), NOISE)


def test_jpeg_is_close() -> None:
    smooth = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None] * 3, (32, 64, 3))
    got = pixels(encode(smooth.copy(), "JPEG", quality=95))
    assert np.abs(got.astype(int) - smooth).max() <= 3


def test_a_path_may_be_a_string_with_any_letters(tmp_path: Path) -> None:
    path = tmp_path / "čínská 画 🎨.png"
    path.write_bytes(encode(NOISE, "PNG"))
    np.testing.assert_array_equal(pixels(str(path)), NOISE)


# ---------------------------------------------------------------- sample depth


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    want = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for kind in ("PNG", "TIFF", "PPM"):  # Pillow opens them as I;16, I;16 and I
        got = pixels(encode(ramp, kind))
        np.testing.assert_array_equal(got, np.stack([want] * 3, -1), err_msg=kind)


def test_16_bit_grey_that_is_dark_stays_dark() -> None:
    assert colour(encode(np.full((8, 8), 200, np.uint16), "PNG")) == [1, 1, 1]
    assert colour(encode(np.full((8, 8), 200, np.uint16), "PPM")) == [1, 1, 1]


def test_16_bit_grey_tiff_where_zero_is_white() -> None:
    data = encode(np.full((8, 8), 257 * 55, np.uint16), "TIFF", tiffinfo={262: 0})
    assert colour(data) == [200, 200, 200]


def test_big_endian_16_bit_tiff() -> None:
    tags = [(256, 8), (257, 8), (258, 16), (259, 1), (262, 1), (273, 122), (277, 1), (279, 128)]
    entries = b"".join(struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    head = b"MM\0*" + struct.pack(">IH", 8, len(tags)) + entries + bytes(4)
    data = head.ljust(122, b"\0") + np.full(64, 257 * 130, ">u2").tobytes()
    assert colour(data) == [130, 130, 130]


def test_16_bit_colour_keeps_its_high_bits() -> None:
    samples = np.zeros((8, 8, 3), np.uint16)
    samples[:] = [0xFFFF, 0x8000, 0x0100]
    assert colour(raw_png(8, 8, 16, 2, png_rows(samples))) == [255, 128, 1]


def test_16_bit_grey_with_alpha() -> None:
    samples = np.zeros((8, 8, 2), np.uint16)
    samples[:, :4] = [0x4000, 0xFFFF]
    got = pixels(raw_png(8, 8, 16, 4, png_rows(samples)))
    assert got[0, 0].tolist() == [64, 64, 64]
    assert got[0, 7].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 0.5, 1.01], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 257.0 * 90, 65535.0], [0, 90, 255]),
        ([-3.0, 50_000.0, 100_000.0], [0, 128, 255]),
        ([float("nan"), 0.2, float("inf")], [0, 51, 255]),
    ],
)
def test_float_grey_by_its_largest_value(values: list[float], want: list[int]) -> None:
    data = encode(np.tile(np.array(values, np.float32), (8, 3)), "TIFF")
    assert pixels(data)[0, :3, 0].tolist() == want


@pytest.mark.parametrize(("top", "want"), [(200, 200), (257 * 200, 200), (2_000_000_000, 255)])
def test_32_bit_grey_by_its_largest_value(top: int, want: int) -> None:
    values = np.zeros((8, 8), np.int32)
    values[0, 0] = top
    got = pixels(encode(values, "TIFF"))
    assert got[0, 0, 0] == want
    assert got[1, 1, 0] == 0


def test_one_bit() -> None:
    bits = np.indices((8, 8)).sum(0) % 2 == 0
    want = np.stack([np.where(bits, 255, 0).astype(np.uint8)] * 3, -1)
    for kind in ("PNG", "TIFF", "BMP", "PPM"):
        np.testing.assert_array_equal(pixels(encode(bits, kind)), want, err_msg=kind)


# ---------------------------------------------------------------- transparency


def test_rgba_over_white() -> None:
    samples = np.full((8, 8, 4), [200, 0, 100, 255], np.uint8)
    samples[:, 4:, 3] = 0
    samples[4:, :4, 3] = 128
    got = pixels(encode(samples, "PNG"))
    assert got[0, 0].tolist() == [200, 0, 100]
    assert got[0, 7].tolist() == [255, 255, 255]
    assert got[7, 0].tolist() == [227, 127, 177]


def test_grey_with_alpha_over_white() -> None:
    samples = np.full((8, 8, 2), [100, 255], np.uint8)
    samples[0, 0, 1] = 0
    got = pixels(encode(Image.fromarray(samples, "LA"), "PNG"))
    assert got[0, 0].tolist() == [255, 255, 255]
    assert got[1, 1].tolist() == [100, 100, 100]


def test_palette_with_one_transparent_entry_and_with_an_alpha_table() -> None:
    image = Image.fromarray(np.tile(np.arange(8, dtype=np.uint8) % 3, (8, 1)))
    image = image.copy()
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    assert image.mode == "P"
    one = pixels(encode(image, "PNG", transparency=1))
    assert one[0, :3].tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]
    table = pixels(encode(image, "PNG", transparency=bytes([255, 128, 0])))
    assert table[0, :3].tolist() == [[255, 0, 0], [127, 255, 127], [255, 255, 255]]


def test_colour_key_is_read_at_the_depth_of_the_file() -> None:
    def key(*values: int) -> bytes:
        return chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))

    white = [255, 255, 255]
    four = b"".join(b"\0" + bytes([0x37] * 4) for _ in range(8))
    got = pixels(raw_png(8, 8, 4, 0, four, key(7)))
    assert got[0, :2].tolist() == [[51, 51, 51], white]

    grey = np.full((8, 8), 0x8001, np.uint16)
    grey[0, 0] = 0x8002
    got = pixels(raw_png(8, 8, 16, 0, png_rows(grey), key(0x8001)))
    assert got[0, :2].tolist() == [[128, 128, 128], white]

    rgb = np.full((8, 8, 3), [0x80FF, 0, 0], np.uint16)
    rgb[0, 0] = [0x40FF, 0, 0]
    got = pixels(raw_png(8, 8, 16, 2, png_rows(rgb), key(0x80FF, 0, 0)))
    assert got[0, :2].tolist() == [[64, 0, 0], white]


# ---------------------------------------------------------------- colour spaces


def test_cmyk_jpeg_and_tiff() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert colour(encode(red, "TIFF")) == [255, 0, 0]
    got = pixels(encode(red, "JPEG", quality=95))
    assert np.abs(got.astype(int) - [255, 0, 0]).max() <= 3


def test_lab_and_ycbcr_tiff() -> None:
    grey = encode(Image.new("LAB", (8, 8), (255, 128, 128)), "TIFF")
    assert min(colour(grey)) >= 253
    assert colour(encode(Image.new("YCbCr", (8, 8), (90, 128, 128)), "TIFF")) == [90, 90, 90]


def gamma_one_profile() -> bytes:
    """The sRGB profile with its three curves replaced by a straight line."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for i in range(struct.unpack(">I", data[128:132])[0]):
        tag, start, _ = struct.unpack(">4sII", data[132 + 12 * i : 144 + 12 * i])
        if tag in (b"rTRC", b"gTRC", b"bTRC"):
            data[start : start + 12] = b"curv" + bytes(8)  # a curve of no entries: identity
    return bytes(data)


def test_embedded_profile_is_applied_once(tmp_path: Path) -> None:
    linear = gamma_one_profile()
    plain = np.full((8, 8, 3), 55, np.uint8)
    # Linear light of 55/255 is 0.2157; its sRGB code is 1.055 * 0.2157**(1/2.4) - 0.055 = 0.502.
    data = encode(plain, "PNG", icc_profile=linear)
    first = colour(data)
    assert all(abs(value - 128) <= 1 for value in first)
    again = png_bytes(load_image(data))
    assert colour(again) == first
    grey = encode(Image.new("L", (8, 8), 55), "JPEG", icc_profile=linear, quality=100)
    assert abs(colour(grey)[0] - 128) <= 2
    see_through = encode(Image.new("RGBA", (8, 8), (55, 55, 55, 0)), "PNG", icc_profile=linear)
    assert colour(see_through) == [255, 255, 255]


def test_srgb_profile_changes_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    got = pixels(encode(NOISE, "PNG", icc_profile=srgb))
    assert np.abs(got.astype(int) - NOISE).max() <= 1


@pytest.mark.parametrize("broken", [b"not a profile", gamma_one_profile()[:200]])
def test_broken_profile_is_ignored(broken: bytes) -> None:
    np.testing.assert_array_equal(pixels(encode(NOISE, "PNG", icc_profile=broken)), NOISE)


def test_profile_of_another_colour_space_is_ignored() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    np.testing.assert_array_equal(pixels(encode(NOISE, "PNG", icc_profile=lab)), NOISE)


# ---------------------------------------------------------------- orientation and frames


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    upright = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    # The stored image for each orientation, by the EXIF table of first row and first column.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(np.ascontiguousarray(stored), kind, exif=exif, **options)
    np.testing.assert_array_equal(pixels(data), upright)


def test_exif_orientation_of_a_jpeg() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    halves = np.zeros((16, 32, 3), np.uint8)
    halves[:, :16] = 255  # white left in the file, so white on top when shown
    got = pixels(encode(halves, "JPEG", exif=exif, quality=95))
    assert got.shape == (32, 16, 3)
    assert got[:12].min() > 240
    assert got[20:].max() < 15


def test_invalid_exif_is_ignored() -> None:
    for exif in (b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0" + bytes(range(64)), b"junk"):
        np.testing.assert_array_equal(pixels(encode(NOISE, "PNG", exif=exif)), NOISE)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), c) for c in ((255, 0, 0), (0, 0, 255), (0, 255, 0))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert colour(data) == [255, 0, 0]


# ---------------------------------------------------------------- reduced decoding


@pytest.mark.parametrize(
    ("target", "want"), [(None, (800, 640)), (200, (800, 640)), (160, (400, 320)), (64, (200, 160))]
)
def test_large_jpegs_decode_at_a_reduced_scale(target: int | None, want: tuple[int, int]) -> None:
    plain = encode(Image.new("RGB", (800, 640), (10, 200, 30)), "JPEG", quality=95)
    image = load_image(plain, target=target)
    assert image.size == want
    assert np.abs(np.asarray(image).astype(int) - [10, 200, 30]).max() <= 3


def test_target_does_not_affect_other_formats_or_the_limit() -> None:
    assert load_image(encode(NOISE, "PNG"), target=1).size == (40, 24)
    big = encode(Image.new("RGB", (800, 640)), "JPEG")
    want = "x: too many pixels: 800x640; at most 1,000 in all are allowed"
    assert refusal(big, name="x", target=1, max_pixels=1_000) == want


def test_png_bytes_contains_text_and_no_other_metadata() -> None:
    image = Image.fromarray(NOISE)
    image.info["icc_profile"] = b"left over"
    text = {"style": "öl, 墨, 🎨", "mix": '{"strength": 1}', "path": "bad \udce9 byte"}
    data = png_bytes(image, text)
    assert data == png_bytes(Image.fromarray(NOISE), dict(reversed(text.items())))
    with Image.open(io.BytesIO(data)) as got:
        np.testing.assert_array_equal(np.asarray(got), NOISE)
        want = text | {"path": "bad \\udce9 byte"}
        assert {key: str(value) for key, value in got.info.items()} == want
    assert png_bytes(image) != data
    for key in ("", "k" * 80, "鍵"):
        with pytest.raises(ValueError):
            png_bytes(image, {key: "x"})


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

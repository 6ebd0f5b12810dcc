"""Hostile and odd pictures: each is shown right, or refused in one exact line."""

from __future__ import annotations

import io
import os
import pickle
import struct
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin

from osasis.errors import ImageError, UserError
from osasis.images import (
    IMAGE_SUFFIXES,
    find_images,
    fit_square,
    image_to_tensor,
    load_image,
    load_square,
    png_bytes,
    tensor_to_image,
)

ALLOWED = "PNG, JPEG, WEBP, GIF, TIFF, BMP and PPM files are read"
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
    """A PNG by hand: Pillow writes neither 16-bit colour nor headers that lie."""
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
    """The one colour of a plain picture."""
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


# ---------------------------------------------------------------- plain pictures


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF", "WEBP"])
@pytest.mark.parametrize("as_bytes", [True, False], ids=["bytes", "path"])
def test_lossless_formats_come_back_as_written(tmp_path: Path, kind: str, as_bytes: bool) -> None:
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
    # How a camera stores the upright picture, from the EXIF table of first row and first column.
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


def test_exif_that_is_nonsense_is_ignored() -> None:
    for exif in (b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0" + bytes(range(64)), b"junk"):
        np.testing.assert_array_equal(pixels(encode(NOISE, "PNG", exif=exif)), NOISE)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), c) for c in ((255, 0, 0), (0, 0, 255), (0, 255, 0))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert colour(data) == [255, 0, 0]


# ---------------------------------------------------------------- refusals


def test_empty_and_text(tmp_path: Path) -> None:
    path = tmp_path / "note.jpg"
    path.write_bytes(b"")
    assert refusal(path) == f"{path}: the file is empty"
    for text in (
        "Dear all,",
        "BMW sells cars",
        "P5 is a hymn",
        "GIF",
        "\x00\x01\x02\x03",
        "<svg/>",
    ):
        path.write_text(text)
        assert refusal(path) == f"{path}: not an image; {ALLOWED}"


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x20ftypheic\0\0\0\0mif1", "HEIC"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "AVIF"),
        (b"%PDF-1.7\n", "PDF"),
    ],
)
def test_formats_that_are_not_allowed(head: bytes, kind: str) -> None:
    assert refusal(head, name="x") == f"x: {kind} is not an allowed format; {ALLOWED}"


def test_a_format_that_pillow_knows_and_we_do_not_allow() -> None:
    for kind in ("ICO", "TGA", "PCX", "EPS", "JPEG2000"):
        assert refusal(encode(NOISE, kind), name="x") == f"x: not an image; {ALLOWED}", kind


def test_names_in_errors(tmp_path: Path) -> None:
    assert refusal(b"") == "image: the file is empty"
    assert refusal(b"", name="upload 3") == "upload 3: the file is empty"
    path = tmp_path / "two\nlines.png"
    path.write_bytes(b"")
    assert refusal(path) == f"{tmp_path}/two\\nlines.png: the file is empty"
    undecodable = tmp_path / os.fsdecode(b"caf\xe9.png")
    assert refusal(undecodable).encode().endswith(b"caf\\udce9.png: no such file")


def test_paths_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "gone.png"
    assert refusal(missing) == f"{missing}: no such file"
    assert refusal(tmp_path) == f"{tmp_path}: is a folder, not an image file"
    assert refusal(missing / "\0") == f"{missing}/\\x00: is not a valid file name"
    assert refusal(tmp_path / ("x" * 300)).endswith(": file name too long")
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    assert refusal(pipe) == f"{pipe}: is not a regular file"
    missing.write_bytes(encode(NOISE, "PNG"))

    def denied(*_: object) -> None:  # the mode bits would not stop root
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    monkeypatch.setattr(Path, "read_bytes", denied)
    assert refusal(missing) == f"{missing}: permission denied"


def test_sizes_at_the_limits() -> None:
    small = "pixels; at least 8x8 are needed"
    assert refusal(encode(NOISE[:1, :1], "PNG"), name="x") == f"x: 1x1 {small}"
    assert refusal(encode(NOISE[:7, :40], "PNG"), name="x") == f"x: 40x7 {small}"
    assert pixels(encode(NOISE[:8, :8], "PNG")).shape == (8, 8, 3)
    assert pixels(encode(NOISE[:1, :1], "PNG"), min_side=1).tolist() == [[NOISE[0, 0].tolist()]]
    want = "x: too many pixels: 40x24; at most 959 in all are allowed"
    assert refusal(encode(NOISE, "PNG"), name="x", max_pixels=959) == want
    assert pixels(encode(NOISE, "PNG"), max_pixels=960).shape == (24, 40, 3)


def test_very_wide_is_fine() -> None:
    wide = np.zeros((100, 20_000, 3), np.uint8)
    wide[:, 9_900:10_100] = 200
    image = load_image(encode(wide, "PNG"))
    assert image.size == (20_000, 100)
    assert np.asarray(fit_square(image, 64)).min() == 200
    assert fit_square(image, 64, "pad").size == (64, 64)
    assert fit_square(image, 64, "resize").size == (64, 64)


@pytest.mark.parametrize("side", [20_000, 1_000_000])
def test_bombs_are_refused_by_their_header(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("the pixels were decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", decode)
    data = raw_png(side, side, 8, 2, bytes(100))
    want = f"x: too many pixels: {side}x{side}; at most 200,000,000 in all are allowed"
    assert refusal(data, name="x") == want


def test_our_limit_holds_where_pillow_warns_or_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # 960 pixels: a warning from Pillow
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(encode(NOISE, "PNG")).shape == (24, 40, 3)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # an error
        assert pixels(encode(NOISE, "PNG")).shape == (24, 40, 3)


LOSSY = ("JPEG", "GIF")
SAVED = {
    "PNG": encode(NOISE, "PNG"),
    "JPEG": encode(NOISE, "JPEG", quality=90),
    "JPEG progressive": encode(NOISE, "JPEG", progressive=True),
    "GIF": encode(NOISE, "GIF"),
    "WEBP": encode(NOISE, "WEBP"),
    "BMP": encode(NOISE, "BMP"),
    "PPM": encode(NOISE, "PPM"),
    "TIFF": encode(NOISE, "TIFF"),
    "TIFF LZW": encode(NOISE, "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("kind", SAVED)
def test_truncated_files_are_whole_or_refused(kind: str) -> None:
    data = SAVED[kind]
    whole = pixels(data)
    format_name = kind.split()[0]
    reasons = {
        "the file is empty",
        f"not an image; {ALLOWED}",
        f"the {format_name} data is truncated",
        f"the {format_name} data is truncated or damaged",
    }
    refused = 0
    for cut in [*range(0, 64), *range(64, len(data), 61), *range(len(data) - 16, len(data))]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                got = np.asarray(load_image(data[:cut]))
            except ImageError as error:
                assert error.reason in reasons, cut
                refused += 1
            else:  # only what follows the pixels is missing
                np.testing.assert_array_equal(got, whole, err_msg=str(cut))
                assert len(data) - cut <= 16
    assert refused > 64


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_half_a_file_is_called_truncated(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "half"
    path.write_bytes(SAVED[kind][: len(SAVED[kind]) // 2])
    assert refusal(path) == f"{path}: the {kind} data is truncated"


@pytest.mark.parametrize("kind", SAVED)
def test_garbage_never_escapes_as_another_error(kind: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        data = bytearray(SAVED[kind])
        for at in rng.integers(4, min(len(data), 400), 6):
            data[at] = rng.integers(256)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                image = load_image(bytes(data), max_pixels=1_000_000)
            except ImageError as error:
                assert "\n" not in str(error)
            else:
                assert image.mode == "RGB"


def test_out_of_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", full)
    assert refusal(SAVED["PNG"], name="x") == "x: not enough memory for 40x24 pixels"


@pytest.mark.parametrize("action", ["error", "always"])
def test_warnings_of_the_decoder_stay_inside(action: Any) -> None:
    # An animation of no frames: Pillow warns, and the picture is fine.
    rows = b"".join(b"\0" + bytes([7] * 24) for _ in range(8))
    data = raw_png(8, 8, 8, 2, rows, chunk(b"acTL", bytes(8)))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter(action)
        with pytest.warns(UserWarning, match="Invalid APNG"):
            Image.open(io.BytesIO(data)).close()
        assert colour(data) == [7, 7, 7]
        assert seen == []


def test_warning_filters_of_other_modules_stay() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        workers = [threading.Thread(target=load_image, args=(SAVED["PNG"],)) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        warnings.warn("ours", stacklevel=1)
        assert [str(w.message) for w in seen] == ["ours"]


def test_image_error_survives_another_process() -> None:
    error = ImageError("a.png", "the file is empty")
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, ImageError)
    assert (copy.name, copy.reason, str(copy)) == ("a.png", "the file is empty", str(error))
    assert str(error) == "a.png: the file is empty"


# ---------------------------------------------------------------- reduced decoding and squares


@pytest.mark.parametrize(
    ("target", "want"), [(None, (800, 640)), (200, (800, 640)), (160, (400, 320)), (64, (200, 160))]
)
def test_large_jpegs_decode_at_a_reduced_scale(target: int | None, want: tuple[int, int]) -> None:
    plain = encode(Image.new("RGB", (800, 640), (10, 200, 30)), "JPEG", quality=95)
    image = load_image(plain, target=target)
    assert image.size == want
    assert np.abs(np.asarray(image).astype(int) - [10, 200, 30]).max() <= 3


def test_target_never_changes_other_formats_or_the_limit() -> None:
    assert load_image(SAVED["PNG"], target=1).size == (40, 24)
    big = encode(Image.new("RGB", (800, 640)), "JPEG")
    want = "x: too many pixels: 800x640; at most 1,000 in all are allowed"
    assert refusal(big, name="x", target=1, max_pixels=1_000) == want


def test_crop_takes_the_middle_unblurred() -> None:
    image = Image.fromarray(NOISE)
    np.testing.assert_array_equal(np.asarray(fit_square(image, 24)), NOISE[:, 8:32])
    odd = np.asarray(fit_square(Image.fromarray(NOISE[:, :39]), 24))
    np.testing.assert_array_equal(odd, NOISE[:, 7:31])
    tall = np.asarray(fit_square(Image.fromarray(NOISE.transpose(1, 0, 2).copy()), 24, "crop"))
    np.testing.assert_array_equal(tall, NOISE.transpose(1, 0, 2)[8:32])


def test_downsampling_averages() -> None:
    checks = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    got = np.asarray(fit_square(Image.fromarray(np.stack([checks] * 3, -1)), 32))
    assert np.abs(got.astype(int) - 127).max() <= 2


def test_pad_repeats_the_edge() -> None:
    got = np.asarray(fit_square(Image.fromarray(NOISE), 40, "pad"))
    np.testing.assert_array_equal(got[8:32], NOISE)
    np.testing.assert_array_equal(got[:8], np.broadcast_to(NOISE[0], (8, 40, 3)))
    np.testing.assert_array_equal(got[32:], np.broadcast_to(NOISE[-1], (8, 40, 3)))


def test_resize_keeps_the_whole_picture() -> None:
    halves = np.zeros((32, 64, 3), np.uint8)
    halves[:, 32:] = 255
    got = np.asarray(fit_square(Image.fromarray(halves), 16, "resize"))
    assert got.shape == (16, 16, 3)
    assert got[:, :6].max() < 30
    assert got[:, 10:].min() > 225


def test_masks_stay_grey_and_other_modes_become_rgb() -> None:
    mask = Image.new("L", (30, 20), 90)
    for fit in ("crop", "pad", "resize"):
        got = fit_square(mask, 10, fit)
        assert (got.mode, got.size, got.getextrema()) == ("L", (10, 10), (90, 90))
    assert fit_square(Image.new("RGBA", (30, 20)), 10, "pad").mode == "RGB"


def test_unknown_fit_and_size() -> None:
    image = Image.fromarray(NOISE)
    with pytest.raises(UserError) as caught:
        fit_square(image, 8, "cropp")
    want = "fit: 'cropp' is not one of crop, pad, resize; did you mean 'crop'?"
    assert str(caught.value) == want
    with pytest.raises(UserError) as caught:
        fit_square(image, 8, "zzz")
    assert str(caught.value) == "fit: 'zzz' is not one of crop, pad, resize"
    with pytest.raises(UserError, match=r"^size: 0 pixels; it must be 1 or more$"):
        fit_square(image, 0)


# ---------------------------------------------------------------- tensors


def test_all_values_survive_the_way_through_a_tensor() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(8, 32)
    image = Image.fromarray(np.stack([ramp, ramp[::-1], ramp.T.reshape(8, 32)], -1))
    tensor = image_to_tensor(image)
    assert (tensor.dtype, tensor.shape) == (torch.float32, (3, 8, 32))
    assert (tensor.min().item(), tensor.max().item()) == (-1.0, 1.0)
    assert tensor[0, 0, 1].item() == pytest.approx(1 / 127.5 - 1)
    np.testing.assert_array_equal(np.asarray(tensor_to_image(tensor)), np.asarray(image))


def test_tensor_to_image_clamps_and_rounds_to_nearest() -> None:
    values = torch.tensor([-9.0, -1.0, 0.6 / 127.5 - 1, 0.4 / 127.5 - 1, 1.0, float("inf")])
    got = tensor_to_image(values.expand(3, 1, 6).requires_grad_())
    assert np.asarray(got)[0, :, 0].tolist() == [0, 0, 1, 0, 255, 255]
    half = torch.full((3, 8, 8), 1.0, dtype=torch.bfloat16)
    assert np.asarray(tensor_to_image(half)).min() == 255


def test_tensor_to_image_refuses_what_is_no_picture() -> None:
    with pytest.raises(ValueError, match=r"is \(3, H, W\), not \(1, 3, 8, 8\)"):
        tensor_to_image(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="NaN"):
        tensor_to_image(torch.full((3, 8, 8), float("nan")))


def test_load_square(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(NOISE, "PNG"))
    got = load_square(path, 24)
    want = torch.from_numpy(NOISE[:, 8:32].transpose(2, 0, 1) / np.float32(127.5) - 1)
    torch.testing.assert_close(got, want)


# ---------------------------------------------------------------- folders and files


def test_find_images(tmp_path: Path) -> None:
    names = ["b.PNG", "a/z.jpeg", "a-b/c.tif", "ä.webp", "d.gif"]
    for name in [*names, "note.txt", ".hidden.png", ".cache/x.png", "a/.git/y.jpg"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    got = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert got == ["a-b/c.tif", "a/z.jpeg", "b.PNG", "d.gif", "ä.webp"]
    assert find_images(str(tmp_path))[0] == tmp_path / "a-b/c.tif"


def test_find_images_below_a_hidden_folder_and_with_a_loop_of_links(tmp_path: Path) -> None:
    root = tmp_path / ".state" / "photos"
    root.mkdir(parents=True)
    (root / "a.png").touch()
    (root / "gone.png").symlink_to(tmp_path / "nowhere.png")  # reported when it is loaded
    (root / "loop").symlink_to(root)
    assert find_images(root) == [root / "a.png", root / "gone.png"]


def test_find_images_refusals(tmp_path: Path) -> None:
    suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
    (tmp_path / "note.txt").touch()
    for folder, reason in (
        (tmp_path / "no", "no such folder"),
        (tmp_path / "note.txt", "is a file, not a folder"),
        (tmp_path, f"no image in this folder (looked for {suffixes})"),
    ):
        with pytest.raises(UserError) as caught:
            find_images(folder)
        assert str(caught.value) == f"{folder}: {reason}"


def test_png_bytes_carries_text_and_nothing_else() -> None:
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

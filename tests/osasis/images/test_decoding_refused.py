"""Image files that are refused, with their one-line errors."""

from __future__ import annotations

import io
import os
import pickle
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from osasis.errors import ImageError
from osasis.images.decoding import load_image
from osasis.images.geometry import fit_square
from tests.osasis.images.odd_pictures import (
    ALLOWED,
    NOISE,
    chunk,
    colour,
    encode,
    pixels,
    raw_png,
    refusal,
)


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
        (b"%PDF-1.7\n", "PDF"),
        (b"\xff\x0a\x7f\0", "JPEG XL"),
        (b"8BPS\0\x01", "PSD"),
        (b"\0\0\0\x18ftypmp42", "video"),
        (encode(NOISE, "JPEG2000"), "JPEG 2000"),
    ],
)
def test_formats_that_are_not_allowed(head: bytes, kind: str) -> None:
    assert refusal(head, name="x") == f"x: {kind} is not an allowed format; {ALLOWED}"


def test_a_format_of_pillow_that_is_not_allowed() -> None:
    for kind in ("ICO", "TGA", "PCX", "EPS"):
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


def test_very_wide_images_are_allowed() -> None:
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


def test_the_limit_replaces_the_limits_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_half_a_file_is_reported_as_truncated(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "half"
    path.write_bytes(SAVED[kind][: len(SAVED[kind]) // 2])
    assert refusal(path) == f"{path}: the {kind} data is truncated"


@pytest.mark.parametrize("kind", SAVED)
def test_damaged_data_raises_image_error_only(kind: str) -> None:
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
def test_warnings_of_the_decoder_are_suppressed(action: Any) -> None:
    # Pillow warns about an animation without frames, but decodes the image.
    rows = b"".join(b"\0" + bytes([7] * 24) for _ in range(8))
    data = raw_png(8, 8, 8, 2, rows, chunk(b"acTL", bytes(8)))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter(action)
        with pytest.warns(UserWarning, match="Invalid APNG"):
            Image.open(io.BytesIO(data)).close()
        assert colour(data) == [7, 7, 7]
        assert seen == []


def test_warning_filters_of_other_modules_are_kept() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        workers = [threading.Thread(target=load_image, args=(SAVED["PNG"],)) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        warnings.warn("ours", stacklevel=1)
        assert [str(w.message) for w in seen] == ["ours"]


def test_image_error_can_be_pickled() -> None:
    error = ImageError("a.png", "the file is empty")
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, ImageError)
    assert (copy.name, copy.reason, str(copy)) == ("a.png", "the file is empty", str(error))
    assert str(error) == "a.png: the file is empty"

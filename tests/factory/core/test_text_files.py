"""Text files from Windows, spreadsheets and word processors."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from factory.core.text_files import existing_location, read_text, text_lines
from osasis.errors import UserError

TEXT = "ä.png\r\nb c.png\n"


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        TEXT.encode("utf-16-le"),  # no mark
        TEXT.encode("utf-16-be"),
    ],
)
def test_encodings(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(data)
    assert read_text(tmp_path / "list.txt") == TEXT


def test_bytes_that_are_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"ok.png\ncaf\xe9.png\n")
    assert read_text(path, "surrogateescape") == "ok.png\ncaf\udce9.png\n"
    with pytest.raises(UserError) as strict:
        read_text(path)
    assert str(strict.value) == f"{path}: not UTF-8 at byte 10; save it as UTF-8"
    path.write_bytes(TEXT.encode("utf-16") + b"x")
    with pytest.raises(UserError) as cut:
        read_text(path, "surrogateescape")
    assert str(cut.value) == f"{path}: not UTF-16 at byte 32; save it as UTF-8"


def test_lines_end_as_on_any_system() -> None:
    assert list(text_lines("a\r\n b\tc \rd\u2028e\n")) == ["a", "b\tc", "d\u2028e", ""]


def test_a_location_takes_the_form_that_exists(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("photos/c.png", "a.png", '"q".png', "back\\slash.png"):
        (tmp_path / name).touch()
    for written, found in {
        "a.png": "a.png",
        '"a.png"': "a.png",
        "' a.png '": "a.png",
        "\u201ca.png\u201d": "a.png",
        "photos\\c.png": "photos/c.png",
        '".\\photos\\c.png"': "./photos/c.png",
        '"q".png': '"q".png',
        "back\\slash.png": "back\\slash.png",
        '"back\\slash.png"': "back\\slash.png",
        "photos\\none.png": "photos\\none.png",
        '"s3://bucket/a.png"': "s3://bucket/a.png",
        "s3://bucket/a\\b.png": "s3://bucket/a\\b.png",
        "x" * 5000 + "\\y": "x" * 5000 + "\\y",
    }.items():
        assert existing_location(written, tmp_path) == found

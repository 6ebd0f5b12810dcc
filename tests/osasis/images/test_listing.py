"""Listing of folders: kinds by their bytes, links, and what is left out."""

from __future__ import annotations

import io
import os
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from osasis.errors import UserError
from osasis.images.decoding import ALLOWED, HEIF_EXTRA, reads_kind
from osasis.images.listing import (
    describe_left_out,
    find_images,
    images_among,
    skipped_part,
    walk_files,
)
from tests.tiny import picture


def encoded(kind: str) -> bytes:
    out = io.BytesIO()
    picture(3).save(out, kind)
    return out.getvalue()


def listed(root: Path) -> tuple[list[str], Counter[str]]:
    left_out: Counter[str] = Counter()
    files = images_among(walk_files(root, left_out), left_out)
    return [Path(f).relative_to(root).as_posix() for f in files], left_out


def test_find_images(tmp_path: Path) -> None:
    names = ["b.PNG", "a/z.jpeg", "a-b/c.tif", "ä.webp", "d.gif"]
    for name in [*names, "note.txt", ".hidden.png", ".cache/x.png", "a/.git/y.jpg"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    got = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert got == ["a-b/c.tif", "a/z.jpeg", "b.PNG", "d.gif", "ä.webp"]
    assert find_images(str(tmp_path))[0] == tmp_path / "a-b/c.tif"


def test_find_images_refusals(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("no picture")
    left_out = "1 file is of a kind that is not read (TXT 1)"
    for folder, reason in (
        (tmp_path / "no", "no such folder"),
        (tmp_path / "note.txt", "is a file, not a folder"),
        (tmp_path, f"no image in this folder ({left_out}); {ALLOWED}"),
    ):
        with pytest.raises(UserError) as caught:
            find_images(folder)
        assert str(caught.value) == f"{folder}: {reason}"


def test_images_are_known_by_their_bytes(tmp_path: Path) -> None:
    for name, kind in {
        "a.jfif": "JPEG", "b.JPE": "JPEG", "hash": "PNG", "c.avif": "AVIF", "d.dat": "WEBP",
        "e.JPG_large": "JPEG", "f.txt": "GIF", "g.bak": "BMP", "h.map": "PPM",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(encoded(kind))
    names, left_out = listed(tmp_path)
    assert names == [
        "a.jfif", "b.JPE", "c.avif", "d.dat", "e.JPG_large", "f.txt", "g.bak", "h.map", "hash",
    ]  # fmt: skip
    assert not left_out


def test_other_kinds_are_counted(tmp_path: Path) -> None:
    for name, data in {
        "a.png": b"",  # reported when it is loaded
        "IMG_1": b"\0\0\0\x1cftypheic\0\0\0\0mif1heic",
        "IMG_2.heic": b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic",
        "clip.mov": b"\0\0\0\x14ftypqt  ",
        "x.jxl": b"\xff\x0a\x7f",
        "scan.pdf": b"%PDF-1.7",
        "camera.DNG": encoded("TIFF"),
        "camera.cr2": b"II*\0\x10\0\0\0CR\x02\0",
        "side.xmp": b"<x:xmpmeta/>",
        "BMX results.md": b"BMX 2024",
        "P3 notes": b"P3 is a road",
        "no suffix": b"something",
        "a.2024-01-01 at noon": b"something",
        "nothing.cfg": b"",
    }.items():
        (tmp_path / name).write_bytes(data)
    names, left_out = listed(tmp_path)
    heic = {} if reads_kind("HEIC") else {"HEIC": 2}
    assert names[-1] == "a.png"
    assert left_out == {
        **heic, "video": 1, "JPEG XL": 1, "PDF": 1, "RAW": 2, "XMP": 1, "MD": 1, "unknown": 3,
        "empty": 1,
    }  # fmt: skip


def test_the_line_about_files_left_out() -> None:
    assert describe_left_out({"PDF": 1}) == "1 file is of a kind that is not read (PDF 1)"
    assert describe_left_out({"XMP": 1, "PDF": 3, "hidden": 2, "@eaDir": 1}) == (
        "4 files are of a kind that is not read (PDF 3, XMP 1); "
        "3 hidden or system entries are skipped (hidden 2, @eaDir 1)"
    )
    assert describe_left_out({"HEIC": 1}).endswith(f"(HEIC 1); {HEIF_EXTRA}")
    many = describe_left_out({f"K{i:02}": 1 for i in range(20)})
    assert many.endswith("K06 1, K07 1, 12 more kinds)")


def test_hidden_files_and_system_folders_are_no_photos(tmp_path: Path) -> None:
    for name in (
        "a.png", "._a.png", ".thumbnails/b.png", "@eaDir/a.png/T.png", "__MACOSX/._a.png",
        "sub/@eadir/x.png", "#recycle/c.png", "lost+found/d.png",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded("PNG"))
    names, left_out = listed(tmp_path)
    assert names == ["a.png"]
    assert left_out == {
        "hidden": 2, "@eaDir": 1, "@eadir": 1, "__MACOSX": 1, "#recycle": 1, "lost+found": 1,
    }  # fmt: skip
    # The folder that is given is listed, whatever its name.
    assert listed(tmp_path / "@eaDir")[0] == ["a.png/T.png"]
    assert [skipped_part(n) for n in ("a/b.png", ".x/b.png", "@eaDir/b.png", "a/._b.png")] == [
        None, "hidden", "@eaDir", "hidden",
    ]  # fmt: skip


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    root, other = tmp_path / ".state" / "photos", tmp_path / "other"
    for name in (root / "z" / "a.png", other / "deep" / "b.png"):
        name.parent.mkdir(parents=True)
        name.write_bytes(encoded("PNG"))
    (root / "gone.png").symlink_to(tmp_path / "nowhere.png")  # reported when it is loaded
    (root / "gone").symlink_to(tmp_path / "nowhere")
    (root / "self").symlink_to(root / "self")
    (root / "loop").symlink_to(root)
    (root / "z" / "up").symlink_to(root)
    (root / "alias").symlink_to(root / "z")  # z itself is listed
    (root / "more").symlink_to(other)
    (root / "more too").symlink_to(other)
    (other / "back").symlink_to(root)
    names, left_out = listed(root)
    assert names == ["gone.png", "more/deep/b.png", "z/a.png"]
    assert left_out == {"unreadable": 2}
    assert walk_files(root, skip=other) == [
        f"{root}/gone", f"{root}/gone.png", f"{root}/self", f"{root}/z/a.png",
    ]  # fmt: skip


def test_a_pipe_without_a_suffix_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    os.mkfifo(tmp_path / "pipe")
    result: list[tuple[list[str], Counter[str]]] = []
    listing = threading.Thread(target=lambda: result.append(listed(tmp_path)), daemon=True)
    listing.start()
    listing.join(20)
    assert result == [(["a.png"], Counter(empty=1))]


def test_a_large_folder_is_listed_in_seconds(tmp_path: Path) -> None:
    (tmp_path / "0.png").touch()
    for folder in range(10):
        (tmp_path / str(folder)).mkdir()
        for i in range(1000):
            os.link(tmp_path / "0.png", tmp_path / str(folder) / (f"{i}.png" if i % 2 else f"{i}"))
    start = time.perf_counter()
    names, left_out = listed(tmp_path)
    assert (len(names), left_out) == (5001, {"empty": 5000})
    assert time.perf_counter() - start < 10

"""Images below a URI."""

from __future__ import annotations

import io
from pathlib import Path

import fsspec
import pytest

from factory.core.uris import copy_images, read_bytes
from osasis.errors import UserError
from tests.tiny import picture


def encoded(seed: int) -> bytes:
    out = io.BytesIO()
    picture(seed).save(out, "PNG")
    return out.getvalue()


def test_images_of_another_file_system_are_copied_in_order(tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    for name, seed in (("b.png", 2), ("a.png", 1), ("deep/c.png", 3)):
        system.pipe(f"/shelf/{name}", encoded(seed))
    system.pipe("/shelf/notes.txt", b"no picture")
    folder = copy_images("memory://shelf", tmp_path / "here")
    assert [p.read_bytes() for p in sorted(folder.iterdir())] == [encoded(s) for s in (1, 2, 3)]
    # Copied files are not read again.
    system.pipe("/shelf/a.png", encoded(9))
    copy_images("memory://shelf", tmp_path / "here")
    assert (folder / "00000000.png").read_bytes() == encoded(1)
    assert read_bytes("memory://shelf/a.png") == encoded(9)


def test_a_folder_of_this_machine_is_used_as_it_is(tmp_path: Path) -> None:
    assert copy_images(tmp_path.as_uri(), tmp_path / "here") == tmp_path


@pytest.mark.parametrize("uri", ["memory://nowhere", "nosuch://bucket/photos"])
def test_listing_errors_are_one_line(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as e:
        copy_images(uri, tmp_path / "here")
    assert str(e.value).startswith(f"{uri}: ") and "\n" not in str(e.value)

"""Images below a URI."""

from __future__ import annotations

import io
from pathlib import Path

import fsspec
import pytest

from factory.core.uris import base_name, copy_images, local_path, locate, read_bytes
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


@pytest.mark.parametrize(
    "name", ["what?.png", "a#1.png", "a::b.png", "100%.png", "a%20b.png", "ü.png", "bad\udcff.png"]
)
def test_a_file_uri_names_the_file_escaped_or_as_written(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"here")
    for uri in (f"file://{tmp_path}/{name}", (tmp_path / name).as_uri(),
                f"file://localhost{tmp_path}/{name}"):  # fmt: skip
        assert local_path(uri) == locate(uri, Path()) == f"{tmp_path}/{name}"
        assert read_bytes(uri) == b"here"
    assert base_name((tmp_path / name).as_uri()) == name


def test_the_escaped_form_of_a_file_uri_comes_first(tmp_path: Path) -> None:
    (tmp_path / "a%20b.png").write_bytes(b"as written")
    (tmp_path / "a b.png").write_bytes(b"escaped")
    assert read_bytes(f"file://{tmp_path}/a%20b.png") == b"escaped"


def test_a_file_uri_with_a_relative_path_is_refused() -> None:
    with pytest.raises(UserError) as refused:
        read_bytes("file://photos/a.png")
    assert str(refused.value) == (
        "file://photos/a.png: 'photos' is read as a host; write an absolute path: "
        "file:///FOLDER/FILE"
    )

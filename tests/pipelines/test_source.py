"""Sources: every kind of input lists the same photos under the right keys."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.core.uris import file_system, join_uri, redact, sibling_uri
from osasis.errors import ImageError, UserError
from pipelines.parquet_input import read_group
from pipelines.photo_bytes import read_photo
from pipelines.source import Source, open_source
from tests.tiny import picture


def keys(source: Source) -> list[str]:
    return [os.fsdecode(k) for k in source.listing["key"].to_pylist()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    (root / ".hidden").mkdir()
    for i, name in enumerate(("b.png", "sub/a.jpg", ".hidden/c.png")):
        picture(i).save(root / name)
    (root / "notes.txt").write_text("no picture")
    return root


def test_folder_glob_list_and_uri_list_the_same_photos(folder: Path) -> None:
    listed = folder.parent / "list.txt"
    listed.write_text(f"# photos\nin/b.png\n\n{folder}/sub/a.jpg\n")
    given = {
        "folder": folder,
        "glob": f"{folder}/**/*.[pj][np]g",
        "uri": folder.as_uri(),
    }
    for kind, what in given.items():
        source = open_source(what)
        assert source.kind == kind
        assert keys(source) == ["b.png", "sub/a.jpg"]
        for key, place in zip(keys(source), source.listing["path"].to_pylist(), strict=True):
            assert read_photo(os.fsdecode(place)) == (folder / key).read_bytes()
    listing = open_source(listed)
    assert listing.count == 2
    assert [os.path.basename(k) for k in keys(listing)] == ["b.png", "a.jpg"]  # noqa: PTH119
    assert keys(open_source(folder / "b.png")) == ["b.png"]


def test_a_file_system_of_fsspec(folder: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/corpus-test/deep/x.png", (folder / "b.png").read_bytes())
    source = open_source("memory://corpus-test")
    assert keys(source) == ["deep/x.png"]
    (place,) = source.listing["path"].to_pylist()
    assert read_photo(os.fsdecode(place)) == (folder / "b.png").read_bytes()
    with pytest.raises(ImageError) as missing:
        read_photo("memory://corpus-test/none.png")
    assert missing.value.reason == "no such file"


@pytest.mark.parametrize("scheme", ["file://", "local://"])
def test_names_below_a_uri_may_hold_any_character(scheme: str, tmp_path: Path) -> None:
    names = ["100%41.png", "a b.png", "c#d.png", "e?f.png", "ü/x.png"]
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(i).save(tmp_path / name)
    source = open_source(f"{scheme}{tmp_path}")
    assert keys(source) == names
    for name, place in zip(names, source.listing["path"].to_pylist(), strict=True):
        assert read_photo(os.fsdecode(place)) == (tmp_path / name).read_bytes()
        one = open_source(os.fsdecode(place))
        assert keys(one) == [Path(name).name]
    # Parquet at a URI, its paths relative to it.
    pq.write_table(pa.table({"path": names}), tmp_path / "list.parquet")
    table = open_source(f"{scheme}{tmp_path}/list.parquet")
    for name, place in zip(names, table.listing["path"].to_pylist(), strict=True):
        assert read_photo(os.fsdecode(place)) == (tmp_path / name).read_bytes()


def test_a_uri_keeps_its_options_and_errors_hide_its_credentials() -> None:
    # No network: the region is given, and nothing is read.
    uri = "s3://key:secret@bucket/in/?region=us-east-1&scheme=http"
    photo = join_uri(uri, "a b/ü.png")
    assert photo == "s3://key:secret@bucket/in/a%20b/%C3%BC.png?region=us-east-1&scheme=http"
    fs, path = file_system(photo)
    assert (fs.type_name, path, fs.region) == ("s3", "bucket/in/a b/ü.png", "us-east-1")
    folder = "s3://key:secret@bucket/in/a%20b?" + uri.split("?")[1]
    assert sibling_uri(photo, "c.png") == join_uri(folder, "c.png")
    assert redact(photo) == "s3://bucket/in/a%20b/%C3%BC.png"
    assert redact("/a@b/c?d.png") == "/a@b/c?d.png"


def test_a_password_in_a_uri_is_refused_because_jobs_store_locations(tmp_path: Path) -> None:
    uri = "s3://key:secret@bucket/in/a.png"
    (tmp_path / "list.txt").write_text(f"b.png\n{uri}\n")
    for given in (uri, tmp_path / "list.txt"):
        with pytest.raises(UserError) as refused:
            open_source(given)
        assert str(refused.value).startswith("s3://bucket/in/a.png: the URI holds a password; set ")
        assert "secret" not in str(refused.value)


def test_parquet_of_bytes_and_of_paths(folder: Path, tmp_path: Path) -> None:
    data = [(folder / n).read_bytes() for n in ("b.png", "sub/a.jpg")]
    table = pa.table({"id": [7, 8], "image": data, "strength": [0.5, None]})
    pq.write_table(table, tmp_path / "bytes.parquet", row_group_size=1)
    source = open_source(tmp_path / "bytes.parquet", row_fields=("strength", "seed"))
    assert (source.image_column, source.columns) == ("image", {"strength": [0.5, None]})
    assert keys(source) == ["7", "8"]
    assert source.listing["group"].to_pylist() == [0, 1]
    assert list(read_group(str(tmp_path / "bytes.parquet"), 1, ["image"], [0])) == [(0, [data[1]])]
    pq.write_table(pa.table({"file": ["in/b.png"]}), tmp_path / "paths.parquet")
    source = open_source(tmp_path / "paths.parquet")
    assert source.image_column is None
    (place,) = source.listing["path"].to_pylist()
    assert Path(os.fsdecode(place)) == folder / "b.png"


def test_invalid_inputs_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1]}), tmp_path / "n.parquet")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    for given, message in (
        (tmp_path / "n.parquet", "no column of images"),
        (tmp_path / "empty.txt", "the list is empty"),
        (tmp_path / "broken.parquet", "not a readable Parquet file"),
        ("nothere://x/y", "nothere://x/y: "),
        ("x" * 300, "no such folder, photo, list"),
        (f"file:///{'x' * 300}", "no such file or folder"),
        (folder.as_uri() + "/none", "no such file or folder"),
    ):
        with pytest.raises(UserError) as refused:
            open_source(given)
        assert message in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder of photos without known suffixes, of other files, and of links and loops."""
    root = tmp_path / "mixed"
    for name in ("a.png", "@eaDir/a.png/T.png", "sub/b.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(1).save(root / name)
    picture(2).save(root / "hash", "PNG")
    picture(3).save(root / "x.dat", "AVIF")
    (root / "y.pdf").write_bytes(b"%PDF-1.7")
    (root / ".DS_Store").touch()
    (tmp_path / "other").mkdir()
    picture(4).save(tmp_path / "other" / "c.png")
    (root / "loop").symlink_to(root)
    (root / "more").symlink_to(tmp_path / "other")
    return root


def test_every_kind_of_input_lists_by_bytes_and_follows_links_once(mixed: Path) -> None:
    names = ["a.png", "hash", "more/c.png", "sub/b.png", "x.dat"]
    for given in (mixed, mixed.as_uri()):
        source = open_source(given)
        assert keys(source) == names
        assert source.left_out == {"PDF": 1, "hidden": 1, "@eaDir": 1}
    found = open_source(f"{mixed}/**/*")
    assert keys(found) == names
    assert found.left_out == {"PDF": 1, "@eaDir": 1}
    assert keys(open_source(f"{mixed}/**/*.png")) == ["a.png", "more/c.png", "sub/b.png"]
    assert keys(open_source(f"{mixed}/@eaDir/*/*.png")) == ["a.png/T.png"]


def test_the_output_is_no_input_where_a_link_leads_to_it(mixed: Path, tmp_path: Path) -> None:
    for given in (mixed, f"{mixed}/**/*.png"):
        assert "more/c.png" not in keys(open_source(given, skip=tmp_path / "other"))
        # Below the folder that is given, outputs were listed by earlier versions too.
        assert "a.png" in keys(open_source(given, skip=mixed))


def test_single_files_are_known_by_their_bytes(folder: Path) -> None:
    photo = folder / "photo.txt"
    photo.write_bytes((folder / "b.png").read_bytes())
    assert open_source(photo).kind == "photo"
    table = folder / "table.dat"
    pq.write_table(pa.table({"path": ["b.png"]}), table)
    assert keys(open_source(table)) == ["b.png"]
    (folder / "list.txt").write_text("b.png\n")
    assert keys(open_source((folder / "list.txt").as_uri())) == ["b.png"]


@pytest.mark.parametrize("name", ["what?.png", "a::b.png", "a#1.png", "100%.png", "bad\udcff.png"])
def test_a_single_uri_finds_the_file_that_its_folder_lists(name: str, folder: Path) -> None:
    shutil.copy(folder / "b.png", folder / name)
    (place,) = (
        os.fsdecode(place)
        for place, key in zip(
            open_source(folder.as_uri()).listing["path"].to_pylist(),
            keys(open_source(folder.as_uri())), strict=True,
        )
        if key == name
    )  # fmt: skip
    for uri in (place, f"file://{folder}/{name}"):
        source = open_source(uri)
        assert keys(source) == [name]
        (location,) = source.listing["path"].to_pylist()
        assert read_photo(os.fsdecode(location)) == (folder / "b.png").read_bytes()


def test_a_zip_file_is_listed_as_a_folder_is(mixed: Path, tmp_path: Path) -> None:
    names = ["a.png", "x::y.png", "e?f.png", "hash"]
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        for name in (*names, "@eaDir/T.png", ".DS_Store"):
            archive.write(mixed / "a.png", f"p/{name}")
        archive.writestr("p/y.pdf", b"%PDF-1.7")
        archive.writestr("__MACOSX/._p", b"")
    for inside, prefix in (("p", ""), ("", "p/")):
        source = open_source(f"zip://{inside}::file://{tmp_path}/m.zip")
        assert keys(source) == sorted(prefix + name for name in names)
        assert source.left_out == {"PDF": 1, "hidden": 1, "@eaDir": 1} | (
            {} if inside else {"__MACOSX": 1}
        )  # fmt: skip
        for place in source.listing["path"].to_pylist():
            assert read_photo(os.fsdecode(place)) == (mixed / "a.png").read_bytes()


def test_a_name_with_double_colons_below_a_file_system_of_fsspec() -> None:
    import fsspec

    fsspec.filesystem("memory").pipe("/colons/a::b.png", b"here")
    source = open_source("memory://colons")
    assert keys(source) == ["a::b.png"]
    (place,) = source.listing["path"].to_pylist()
    assert read_photo(os.fsdecode(place)) == b"here"
    with pytest.raises(UserError) as missing:
        open_source("memory://colons/what?.png")
    assert str(missing.value).endswith("where it is part of a name, write %3F")


def test_brackets_that_match_nothing_say_how_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "photos [2024]").mkdir()
    picture(1).save(tmp_path / "photos [2024]" / "a.png")
    with pytest.raises(UserError) as refused:
        open_source(f"{tmp_path}/photos [2024]/*.png")
    plain = f"{tmp_path}/photos [[]2024]/*.png"
    assert str(refused.value) == (
        f"{tmp_path}/photos [2024]/*.png: no photo matches (quote the pattern; ** goes into "
        "folders); [2024] is read as one of the characters between the brackets: where it is "
        f"part of a name, write {plain!r}, or give the folder"
    )
    assert open_source(plain).count == 1
    with pytest.raises(UserError) as none:
        open_source(f"{tmp_path}/*/*.jpg")
    assert str(none.value).endswith("(quote the pattern; ** goes into folders)")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_lists_from_windows(encoding: str, folder: Path) -> None:
    lines = ["# \u00e4", "b.png", "sub\\a.jpg", '"b.png"', f'"{folder}\\sub\\a.jpg"', ""]
    (folder / "list.txt").write_bytes("\r\n".join(lines).encode(encoding))
    source = open_source(folder / "list.txt")
    assert source.count == 4
    for place, name in zip(
        source.listing["path"].to_pylist(), ["b.png", "sub/a.jpg"] * 2, strict=True
    ):
        assert read_photo(os.fsdecode(place)) == (folder / name).read_bytes()


def test_a_list_may_name_files_that_are_not_utf8(folder: Path) -> None:
    shutil.copy(folder / "b.png", folder / "caf\udce9.png")
    (folder / "list.txt").write_bytes(b"caf\xe9.png\n")
    (place,) = open_source(folder / "list.txt").listing["path"].to_pylist()
    assert read_photo(os.fsdecode(place)) == (folder / "b.png").read_bytes()


def test_a_pipe_and_a_dangling_link_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    for name in ("pipe.png", "link.png"):
        with pytest.raises(UserError) as refused:
            open_source(tmp_path / name)
        assert str(refused.value).startswith(f"{tmp_path / name}: no regular file or folder")

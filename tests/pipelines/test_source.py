"""Sources: every kind of input lists the same photos under the right keys."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.core.uris import file_system, join_uri, redact, sibling_uri
from osasis.errors import ImageError, UserError
from pipelines.manifest import output_names
from pipelines.source import Source, open_source, read_group, read_photo
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
    """pyarrow (file://) escapes URIs; fsspec (local://) does not."""
    names = ["100%41.png", "a b.png", "c#d.png", "e?f.png", "ü/x.png"]
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(i).save(tmp_path / name)
    if scheme == "local://":  # its "?" begins a query, as everywhere
        (tmp_path / names.pop(3)).unlink()
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


def test_parquet_of_bytes_and_of_paths(folder: Path, tmp_path: Path) -> None:
    data = [(folder / n).read_bytes() for n in ("b.png", "sub/a.jpg")]
    table = pa.table({"id": [7, 8], "image": data, "strength": [0.5, None]})
    pq.write_table(table, tmp_path / "bytes.parquet", row_group_size=1)
    source = open_source(tmp_path / "bytes.parquet", row_fields=("strength", "seed"))
    assert (source.image_column, source.columns) == ("image", {"strength": [0.5, None]})
    assert keys(source) == ["7", "8"]
    assert source.listing["group"].to_pylist() == [0, 1]
    assert list(read_group(str(tmp_path / "bytes.parquet"), 1, "image", [0])) == [(0, data[1])]
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
        (folder.as_uri() + "/none", "no such file or folder"),
    ):
        with pytest.raises(UserError) as refused:
            open_source(given)
        assert message in str(refused.value)
        assert "\n" not in str(refused.value)


def test_no_two_outputs_share_a_name() -> None:
    given = [b"a.jpg", b"a.png", b"A.PNG", b"x/a.png", b"a.jpg", b"../../etc/x.png", b"caf\xe9.png"]
    names = output_names(given)
    assert names == [
        b"a.jpg", b"a.png", b"A.PNG~2", b"x/a", b"a.jpg~2", b"etc/x", b"caf\xe9",
    ]  # fmt: skip

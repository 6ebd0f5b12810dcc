"""Parquet columns of every layout of text and bytes, and refused types."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from osasis.errors import ImageError, UserError
from pipelines.parquet_input import read_group
from pipelines.parquet_output import without_views
from pipelines.photo_bytes import row_photo
from pipelines.source import open_source
from tests.tiny import picture

TEXTS = {
    "string": lambda a: a,
    "large": lambda a: a.cast(pa.large_string()),
    "view": lambda a: a.cast(pa.string_view()),
    "dictionary": lambda a: a.dictionary_encode(),
}
BYTES = {
    "binary": lambda a: a,
    "large": lambda a: a.cast(pa.large_binary()),
    "view": lambda a: a.cast(pa.binary_view()),
    "dictionary": lambda a: a.dictionary_encode(),
    "struct": lambda a: pa.StructArray.from_arrays([a], ["bytes"]),
}


@pytest.mark.parametrize("layout", TEXTS)
def test_paths_and_names(layout: str, tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.png")
    text = TEXTS[layout]
    table = pa.table({"path": text(pa.array(["a.png", "a.png", None]))})
    pq.write_table(table, tmp_path / "paths.parquet", row_group_size=1)
    source = open_source(tmp_path / "paths.parquet")
    assert source.listing["key"].to_pylist() == [b"a.png", b"a.png", b"000002"]
    assert os.fsdecode(source.listing["path"][0].as_py()) == str(tmp_path / "a.png")
    named = pa.table(
        {
            "image": [b"1", b"2", b"3"],
            "name": text(pa.array(["x", None, "y"])),
            "style": text(pa.array(["oil", "ink", "oil"])),
        }
    )
    pq.write_table(named, tmp_path / "named.parquet", row_group_size=2)
    source = open_source(tmp_path / "named.parquet", row_fields=("style",))
    assert source.listing["key"].to_pylist() == [b"x", b"000001", b"y"]
    assert source.columns == {"style": ["oil", "ink", "oil"]}


@pytest.mark.parametrize("layout", BYTES)
def test_bytes(layout: str, tmp_path: Path) -> None:
    table = pa.table({"image": BYTES[layout](pa.array([b"1", b"2", b"1", None]))})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    source = open_source(tmp_path / "a.parquet")
    assert (source.image_column, source.count) == ("image", 4)
    rows = list(read_group(str(tmp_path / "a.parquet"), 1, ["image"], [0, 1]))
    assert rows == [(0, [b"1"]), (1, [None])]


def test_rows_of_hugging_face_datasets(tmp_path: Path) -> None:
    """Structs of bytes and path, of which either may be null; outputs are named from the path."""
    picture(1).save(tmp_path / "b.png")
    images = [
        {"bytes": b"1", "path": "a.png"},
        {"bytes": None, "path": "b.png"},
        {"bytes": None, "path": "gone.png"},
        {"bytes": b"2", "path": None},
        {"bytes": None, "path": None},
        None,
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(images, kind)}), tmp_path / "hf.parquet")
    source = open_source(tmp_path / "hf.parquet")
    names = [b"a.png", b"b.png", b"gone.png", b"000003", b"000004", b"000005"]
    assert source.listing["key"].to_pylist() == names
    found = [f for _, (f,) in read_group(str(tmp_path / "hf.parquet"), 0, ["image"], range(6))]
    assert found == [b"1", f"{tmp_path}/b.png", f"{tmp_path}/gone.png", b"2", None, None]
    assert row_photo(found[0]) == b"1"
    assert row_photo(found[1]) == (tmp_path / "b.png").read_bytes()
    reasons = []
    for missing in (found[2], found[4]):
        with pytest.raises(ImageError) as refused:
            row_photo(missing)
        reasons.append(refused.value.reason)
    assert reasons == [
        f"the row has no bytes, only the path {tmp_path}/gone.png: no such file",
        "the row holds no image (null)",
    ]


def test_rows_of_views_can_be_chosen_for_the_output() -> None:
    texts = pa.table({"a": pa.array(["x", None, "y"], pa.string_view()), "b": [1, 2, 3]})
    chosen = without_views(texts).take(pa.array([2, 1, 1]))
    assert chosen.to_pydict() == {"a": ["y", None, None], "b": [3, 2, 2]}


@pytest.mark.parametrize(
    ("column", "values", "kind"),
    [
        ("image", pa.array([[1, 2]], pa.list_(pa.uint8())), "list<element: uint8>"),
        ("path", pa.array([["a.png"]]), "list<element: string>"),
        ("photo", pa.array([1.5]), "double"),
    ],
)
def test_other_types_are_refused_by_name(
    column: str, values: pa.Array, kind: str, tmp_path: Path
) -> None:
    pq.write_table(pa.table({column: values}), tmp_path / "a.parquet")
    for options in ({}, {"column": column}):
        with pytest.raises(UserError) as refused:
            open_source(tmp_path / "a.parquet", **options)  # type: ignore[arg-type]
        assert str(refused.value) == (
            f"{tmp_path}/a.parquet: column {column!r} is {kind}; it must hold encoded images "
            "(binary) or paths (string); convert it, or choose another column with --image-column"
        )

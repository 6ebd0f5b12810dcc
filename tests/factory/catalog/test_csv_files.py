"""CSV catalogs as spreadsheets and editors of any system write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.factory.catalog.conftest import load, problems

WINDOWS = "id;image;tags\r\none;a.png;oil,portrait\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("head", ["", "sep={}\r\n", '"sep={}"\r\n', "\r\n"])
def test_encodings_separators_and_separator_lines(
    images: Callable[..., Path], encoding: str, separator: str, head: str
) -> None:
    path = images("a.png") / "c.csv"
    row = separator.join(["ü-öl", "a.png", '"oil, portrait"', "0.4"])
    text = head.format(separator) + separator.join(["licence", "image", "tags", "t0"])
    path.write_bytes(f"{text}\r\n{row}\r\n".encode(encoding))
    (entry,) = load(path)
    assert (entry.id, entry.licence, entry.tags) == ("a", "ü-öl", ("oil", "portrait"))
    assert entry.overrides == {"t0": 0.4}
    assert entry.line == (3 if head else 2)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_and_quoted_line_breaks(images: Callable[..., Path], end: str) -> None:
    path = images("a.png", "b.png") / "c.csv"
    rows = ["image,licence", f'a.png,"CC0{end}from a ""friend"""', "b.png,MIT", ""]
    path.write_bytes(end.join(rows).encode())
    assert [(e.id, e.licence, e.line) for e in load(path)] == [
        ("a", f'CC0{end}from a "friend"', 2),
        ("b", "MIT", 4),
    ]


def test_headers_in_any_case_with_spaces_and_notes(images: Callable[..., Path]) -> None:
    path = images("a.png") / "c.csv"
    path.write_text(" ID , Image,Batch Size,keep-best,X-Seen by\none,a.png,3,TRUE,me\n")
    (entry,) = load(path)
    assert (entry.id, entry.overrides) == ("one", {"batch_size": 3, "keep_best": True})


@pytest.mark.parametrize("tags", ["oil portrait", "oil,portrait", "oil; portrait", "oil|portrait,"])
def test_separators_of_tags(images: Callable[..., Path], tags: str) -> None:
    path = images("a.png") / "c.csv"
    path.write_text(f'image,tags\na.png,"{tags}"\n')
    assert load(path)[0].tags == ("oil", "portrait")


def test_decimal_commas_are_refused_with_the_number_to_write(images: Callable[..., Path]) -> None:
    path = images("a.png", "b.png") / "c.csv"
    path.write_text("image;t0\na.png;0,25\nb.png;0,x\n")
    assert problems(path) == [
        "2: overrides.t0 is '0,25'; it must be a number in [0.05, 1]: write 0.25, with a point",
        "3: overrides.t0 is '0,x'; it must be a number in [0.05, 1]",
    ]


def test_quoted_separators_of_the_header_do_not_count(images: Callable[..., Path]) -> None:
    path = images("a.png") / "c.csv"
    path.write_text('id;image;"licence, note"\none;a.png;CC0\n')
    assert problems(path) == [
        "1: unknown column 'licence, note' (nearest: licence); a column is a field of the catalog "
        "or a training setting; a note's begins with x-"
    ]
    path.write_text('id;image;"x-a, b, c, d, e"\none;a.png;"CC0, mine"\n')
    assert load(path)[0].id == "one"


def test_empty_cells_at_the_end_are_added_or_left_out(images: Callable[..., Path]) -> None:
    """Spreadsheets pad rows to the widest one, and Excel leaves out empty cells at the end."""
    path = images("a.png", "b.png", "c.png") / "c.csv"
    path.write_text(
        ",,,,,\nid,image,tags,licence,,\n,a.png,,,,\n,b.png\n,,,,,\nthird,c.png,x,CC0,,,\n,,\n\n"
    )
    assert [(e.id, e.line, e.licence) for e in load(path)] == [
        ("a", 3, ""),
        ("b", 4, ""),
        ("third", 6, "CC0"),
    ]


def test_text_in_a_cell_without_a_column_is_refused(images: Callable[..., Path]) -> None:
    path = images("a.png", "b.png") / "c.csv"
    path.write_text("image,,tags,,\na.png,note,oil\nb.png,,oil,portrait\n")
    assert problems(path) == [
        "2: cell 2 is 'note', without a column in the header; the header has 3 columns; put text "
        "with separators in quotes",
        "3: cell 4 is 'portrait', without a column in the header; the header has 3 columns; put "
        "text with separators in quotes",
    ]


def test_a_repeated_column_is_found_in_any_case(images: Callable[..., Path]) -> None:
    path = images("a.png") / "c.csv"
    path.write_text("Image,ID,image\na.png,x,a.png\n")
    assert problems(path) == ["1: column 'image' is repeated; remove one"]


def test_a_header_without_images_is_the_only_problem(images: Callable[..., Path]) -> None:
    path = images("a.png") / "c.csv"
    path.write_text("id;image,licence\nx;a.png,CC0\ny;a.png,CC0\n")
    assert problems(path) == [
        "1: unknown column 'id;image' (nearest: image, guidance); a column is a field of the "
        "catalog or a training setting; a note's begins with x-",
        "1: column 'image' is missing; add it",
    ]


def test_paths_of_windows(images: Callable[..., Path]) -> None:
    folder = images("photos/Dark Oil.png", "photo.png")
    path = folder / "lists" / "c.csv"
    path.parent.mkdir()
    path.write_text("image;counterpart\n..\\photos\\Dark Oil.png;..\\photo.png\n")
    (entry,) = load(path)
    assert entry.id == "dark-oil"
    assert Path(entry.image).resolve() == (folder / "photos" / "Dark Oil.png").resolve()
    assert Path(entry.counterpart or "").resolve() == (folder / "photo.png").resolve()


def test_ids_stay_as_written(images: Callable[..., Path]) -> None:
    path = images("a.png", "b.png", "c.png") / "c.csv"
    path.write_text("id,image,licence\n0777,a.png,no\n2024-01-01,b.png,null\n1.0,c.png,1_000\n")
    assert [(e.id, e.licence) for e in load(path)] == [
        ("0777", "no"),
        ("2024-01-01", "null"),
        ("1.0", "1_000"),
    ]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "1: the file is empty; begin with a header line: id,image"),
        (b"sep=;\r\n", "1: the file is empty; begin with a header line: id,image"),
        (b"id,image\r\n", " the catalog is empty; name a style image"),
        (
            b'image,licence\na.png,"CC0" mine\n',
            "2: not valid CSV from this line on (',' expected after '\"'); correct it; within "
            'quotes, write " as ""',
        ),
        (
            b'image,licence\na.png,"CC0\n',
            "2: not valid CSV from this line on (unexpected end of data); correct it; within "
            'quotes, write " as ""',
        ),
    ],
)
def test_files_that_are_no_catalog(images: Callable[..., Path], data: bytes, says: str) -> None:
    path = images("a.png") / "c.csv"
    path.write_bytes(data)
    assert problems(path) == [says]


def test_values_that_are_no_json_stay_text(images: Callable[..., Path]) -> None:
    path = images("a.png") / "c.tsv"
    path.write_text(f"image\tt0\tseed\na.png\t0,4\t{'9' * 5000}\n")
    found = problems(path)
    assert found[0].startswith("2: overrides.seed is '9999")
    assert found[1].startswith("2: overrides.t0 is '0,4'; it must be a number in [0.05, 1]: ")

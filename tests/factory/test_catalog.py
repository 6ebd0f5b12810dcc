"""Catalogs: folders and YAML files, and every problem of one reported at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from factory.catalog import CatalogEntry, load_catalog
from osasis.errors import UserError
from tests.factory.conftest import picture


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder with pictures of these names."""

    def make(*names: str) -> Path:
        for i, name in enumerate(names):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            picture(i, (16, 16)).save(tmp_path / name)
        return tmp_path

    return make


def load(path: Path, **overrides: object) -> list[CatalogEntry]:
    return load_catalog(path, "default", overrides)


def problems(path: Path, **overrides: object) -> list[str]:
    """The problem lines of a catalog that is refused."""
    with pytest.raises(UserError) as refused:
        load(path, **overrides)
    head, *lines = str(refused.value).splitlines()
    assert head == f"{path}: {len(lines)} problem(s)"
    return [line.strip() for line in lines]


def test_folder_gives_a_style_a_file(images: Callable[..., Path]) -> None:
    folder = images("b.png", "Oil (dark).jpg", "sub/c.webp", ".hidden.png")
    (folder / "notes.txt").write_text("no picture")
    entries = load(folder)
    assert [(e.id, e.image.relative_to(folder).as_posix()) for e in entries] == [
        ("oil-dark", "Oil (dark).jpg"),
        ("b", "b.png"),
        ("c", "sub/c.webp"),
    ]
    assert entries[1] == CatalogEntry("b", folder / "b.png", where="b.png")


def test_single_image_is_a_catalog_of_one(images: Callable[..., Path]) -> None:
    (entry,) = load(images("Ink.png") / "Ink.png")
    assert entry.id == "ink"


def test_names_without_usable_letters_get_stable_ids(images: Callable[..., Path]) -> None:
    folder = images("油画.png", "素描.png")
    ids = [e.id for e in load(folder)]
    assert len(set(ids)) == 2
    assert all(len(i) == len("style-") + 8 and i.startswith("style-") for i in ids)
    assert ids == [e.id for e in load(folder)]


def test_yaml_paths_are_relative_to_the_file(images: Callable[..., Path]) -> None:
    folder = images("pictures/oil.png", "photo.png")
    path = folder / "lists" / "catalog.yml"
    path.parent.mkdir()
    path.write_text(
        """styles:
  - id: dark-oil
    image: ../pictures/oil.png
    counterpart: ../photo.png
    overrides: {iterations: 7, t0: 0.4}
    tags: [oil, dark]
    licence: CC0
  - image: ../pictures/oil.png
"""
    )
    first, second = load(path, batch_size=3, iterations=5)
    assert first.image.resolve() == (folder / "pictures" / "oil.png").resolve()
    assert first.counterpart is not None
    assert first.counterpart.resolve() == (folder / "photo.png").resolve()
    assert (first.id, first.tags, first.licence) == ("dark-oil", ("oil", "dark"), "CC0")
    assert (second.id, second.counterpart, second.tags) == ("oil", None, ())
    assert (first.where, second.where) == ("line 2", "line 8")
    settings = first.settings("default", {"batch_size": 3, "iterations": 5})
    # The entry's own overrides win over the run's.
    assert (settings.iterations, settings.t0, settings.batch_size) == (7, 0.4, 3)
    assert second.settings("default", {"iterations": 5}).iterations == 5


def test_all_problems_are_reported_at_once_with_their_lines(images: Callable[..., Path]) -> None:
    folder = images("oil.png")
    path = folder / "catalog.yaml"
    path.write_text(
        """# A comment moves the lines.
styles:
  - id: oil
    image: oil.png
  - id: Bad Id
    image: oil.png
  - id: oil
    image: oil.png
  - image: missing.png
  - id: no-image
  - just a word
  - id: typo
    image: oil.png
    overides: {}
    overrides: {iteration: 3, batch_size: 0}
    tags: oil
  - id: twice
    image: oil.png
    counterpart: gone.png
    overrides: 3
  - id: number
    image: oil.png
    counterpart: 3
"""
    )
    found = problems(path)
    expected = [
        "line 10: image is missing",
        "line 11: an entry must be a mapping with at least 'image'",
        "line 12: unknown field 'overides' (nearest: overrides)",
        "line 12: tags must be a list of words",
        "line 17: overrides must be a mapping of training settings",
        "line 21: counterpart must be a path",
        "line 5: id 'Bad Id': use 1 to 63 of a-z, 0-9, '.', '-', '_', a letter or digit first",
        "line 7: id 'oil' is already used by line 3",
        f"line 9: image {folder / 'missing.png'} does not exist",
        f"line 17: counterpart {folder / 'gone.png'} does not exist",
    ]
    settings = [f for f in found if f.startswith("line 12: settings: ")]
    assert sorted(f for f in found if f not in settings) == sorted(expected)
    assert len(settings) == 1
    assert "unknown setting 'iteration' (nearest: iterations" in settings[0]
    assert "batch_size is 0; it must lie in [1, 1024]" in settings[0]


def test_two_files_with_one_stem(images: Callable[..., Path]) -> None:
    assert problems(images("a.jpg", "a.png")) == ["a.png: id 'a' is already used by a.jpg"]


def test_a_setting_that_is_wrong_for_the_run_is_reported_once(
    images: Callable[..., Path],
) -> None:
    folder = images("a.png", "b.png", "c.png")
    with pytest.raises(UserError) as refused:
        load(folder, iteration=3)
    assert str(refused.value).count("unknown setting 'iteration'") == 1


@pytest.mark.parametrize("number", ["1", "2.5", "null", "true"])
def test_setting_names_in_yaml_need_not_be_words(images: Callable[..., Path], number: str) -> None:
    path = images("a.png") / "catalog.yaml"
    path.write_text(f"styles:\n  - image: a.png\n    overrides: {{{number}: 2}}\n")
    (line,) = problems(path)
    assert line.startswith("line 2: ")
    assert "unknown setting" in line


def test_empty_catalogs(images: Callable[..., Path]) -> None:
    folder = images()
    with pytest.raises(UserError, match=r": no image in this folder"):
        load(folder)
    path = folder / "catalog.yaml"
    path.write_text("styles: []\n")
    assert problems(path) == ["the catalog is empty"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ": needs a list under 'styles:'"),
        ("- image: a.png\n", ": needs a list under 'styles:'"),
        ("styles: a.png\n", ": needs a list under 'styles:'"),
        ("styles:\n  - {image: a.png\n", ": line 3 not valid YAML"),
        ("styles:\n\t- image: a.png\n", ": line 2 not valid YAML"),
        (b"styles:\n  - image: \xff.png\n", ": not valid YAML"),
    ],
)
def test_what_is_no_catalog_is_refused_in_one_line(
    tmp_path: Path, text: str | bytes, says: str
) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as refused:
        load(path)
    assert str(refused.value).startswith(f"{path}{says}")
    assert "\n" not in str(refused.value)


def test_missing_catalogs(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("styles")
    none = "no such catalog (a YAML file, a folder of images, or an image)"
    for name, says in (("catalog.yaml", "no such file"), ("nowhere", none), ("notes.txt", none)):
        with pytest.raises(UserError) as refused:
            load(tmp_path / name)
        assert str(refused.value).startswith(f"{tmp_path / name}: {says}")

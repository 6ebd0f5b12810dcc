"""Catalogs of every form; all problems reported at once with file, line and remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from diffstyler.settings import StyleSettings
from factory.catalog import CatalogError, check_catalog
from factory.catalog.schema import schema_text, shipped_schema
from factory.core.uris import read_bytes
from factory.methods import find_method
from osasis.errors import UserError
from osasis.settings import TrainSettings
from tests.factory.catalog.conftest import load, problems
from tests.factory.conftest import cli
from tests.tiny import truncated_jpeg


def test_folder_gives_one_style_per_file(images: Callable[..., Path]) -> None:
    folder = images("b.png", "Oil (dark).jpg", "sub/c.webp", ".hidden.png")
    (folder / "notes.txt").write_text("no picture")
    entries = load(folder)
    assert [(e.id, Path(e.image).relative_to(folder).as_posix()) for e in entries] == [
        ("oil-dark", "Oil (dark).jpg"),
        ("b", "b.png"),
        ("c", "sub/c.webp"),
    ]


def test_single_image_is_a_catalog_of_one(images: Callable[..., Path]) -> None:
    (entry,) = load(images("Ink.png") / "Ink.png")
    assert entry.id == "ink"


def test_names_without_usable_letters_get_stable_ids(images: Callable[..., Path]) -> None:
    folder = images("油画.png", "素描.png")
    ids = [e.id for e in load(folder)]
    assert len(set(ids)) == 2
    assert all(len(i) == len("style-") + 8 and i.startswith("style-") for i in ids)


YAML = """styles:
  - id: dark-oil
    image: ../pictures/oil.png
    counterpart: ../photo.png
    overrides: {iterations: 7, t0: 0.4}
    tags: [oil, dark]
    licence: CC0
  - image: memory://catalog/ink.png
gate: [style_distance<=0.8]
"""
CSV = """id,image,counterpart,iterations,t0,tags,licence
dark-oil,../pictures/oil.png,../photo.png,7,0.4,oil; dark,CC0

,memory://catalog/ink.png,,,,,
"""


@pytest.mark.parametrize(
    ("name", "text", "lines"), [("c.yml", YAML, [2, 8]), ("c.csv", CSV, [2, 4])]
)
def test_files_name_paths_and_uris(
    images: Callable[..., Path], name: str, text: str, lines: list[int]
) -> None:
    folder = images("pictures/oil.png", "photo.png", "ink.png")
    with fsspec.open("memory://catalog/ink.png", "wb") as f:
        f.write((folder / "ink.png").read_bytes())
    path = folder / "lists" / name
    path.parent.mkdir()
    path.write_text(text)
    first, second = load(path, batch_size=3, iterations=5)
    assert Path(first.image).resolve() == (folder / "pictures" / "oil.png").resolve()
    assert read_bytes(first.counterpart or "") == (folder / "photo.png").read_bytes()
    assert (first.id, first.tags, first.licence) == ("dark-oil", ("oil", "dark"), "CC0")
    assert (second.id, second.counterpart, second.tags) == ("ink", None, ())
    assert read_bytes(second.image) == (folder / "ink.png").read_bytes()
    assert [e.line for e in (first, second)] == lines
    settings = first.settings(find_method("osasis"), "default", {"batch_size": 3, "iterations": 5})
    # The entry's own overrides win over the run's.
    assert (settings.iterations, settings.t0, settings.batch_size) == (7, 0.4, 3)
    assert second.settings(find_method("osasis"), "default", {"iterations": 5}).iterations == 5


def test_all_problems_of_a_yaml_are_reported_at_once(images: Callable[..., Path]) -> None:
    folder = images("oil.png", "ink.png", "a.png", "b.png", "d.png")
    path = folder / "catalog.yaml"
    path.write_text(
        """# A comment moves the lines.
styles:
  - id: oil
    image: oil.png
  - id: Bad Id
    image: ink.png
  - id: oil
    image: oil.png
  - image: missing.png
  - id: no-image
  - just a word
  - id: typo
    image: a.png
    overides: {}
    overrides:
      iteration: 3
      batch_size: 0
      t0: half
    tags: oil
  - id: twice
    id: twice
    image: b.png
    counterpart: gone.png
  - image: memory://nowhere/x.png
gates: []
gate: [styledistance<1]
"""
    )
    found = problems(path)
    begins = [
        "5: id 'Bad Id' cannot be used; use 1 to 63 of",
        "7: id 'oil' is already used by line 3; give one of them another id",
        "8: the same image as line 3 ('oil'); remove one, or give them different overrides",
        f"9: image {folder / 'missing.png'}: no such file; correct the path or URI",
        "10: image is missing; it must be text of at least 1 characters",
        "11: an entry is 'just a word', not a mapping; write at least `image: FILE`",
        "14: unknown field 'overides' (nearest: overrides",
        "16: unknown field 'iteration' (nearest: iterations",
        "17: overrides.batch_size is 0; it must be a whole number in [1, 1024]",
        "18: overrides.t0 is 'half'; it must be a number in [0.05, 1]",
        "19: tags is 'oil'; it must be a list, each text",
        "21: field 'id' is repeated (first in line 20); remove one",
        f"23: counterpart {folder / 'gone.png'}: no such file; correct",
        "24: image memory://nowhere/x.png: no such file; correct",
        "25: unknown field 'gates' (nearest: gate",
        "26: condition 'styledistance<1': metric is 'styledistance'; it must be one of style_dist",
    ]
    assert len(found) == len(begins), found
    for line, begin in zip(found, begins, strict=True):
        assert line.startswith(begin)


def test_all_problems_of_a_csv_are_reported_at_once(images: Callable[..., Path]) -> None:
    path = images("a.png", "b.png") / "c.csv"
    path.write_text(
        'id,image,iteration,batch_size,tags\na,a.png,,4,"x\ny"\nb,b.png,,zero,\nc,c.png,,,oil,dark\n'
    )
    found = problems(path)
    assert found[0].startswith("1: unknown column 'iteration' (nearest: iterations")
    # The cell with a line break makes the second style begin in line 4.
    assert found[1].startswith("4: overrides.batch_size is 'zero'; it must be a whole number")
    assert found[2].startswith("5: cell 6 is 'dark', without a column in the header; ")
    assert len(found) == 3


def test_one_image_with_different_overrides_is_two_styles(images: Callable[..., Path]) -> None:
    path = images("a.png") / "catalog.yaml"
    path.write_text(
        "styles:\n  - {id: x, image: a.png}\n"
        "  - {id: y, image: a.png, overrides: {iterations: 3}}\n"
    )
    assert [e.id for e in load(path)] == ["x", "y"]


def test_two_files_with_one_stem(images: Callable[..., Path]) -> None:
    folder = images("a.jpg", "a.png")
    assert problems(folder) == [
        "/a.png: id 'a' is already used by a.jpg; give one of them another id"
    ]


def test_a_setting_that_is_wrong_for_the_run_is_reported_once(images: Callable[..., Path]) -> None:
    folder = images("a.png", "b.png", "c.png")
    with pytest.raises(UserError) as refused:
        load(folder, iteration=3)
    assert str(refused.value).count("unknown field 'iteration'") == 1


@pytest.mark.parametrize("number", ["1", "2.5", "null", "true"])
def test_setting_names_in_yaml_can_be_scalars(images: Callable[..., Path], number: str) -> None:
    path = images("a.png") / "catalog.yaml"
    path.write_text(f"styles:\n  - image: a.png\n    overrides: {{{number}: 2}}\n")
    (line,) = problems(path)
    assert "unknown field" in line


def test_an_image_that_does_not_decode_is_found_by_check_only(
    images: Callable[..., Path],
) -> None:
    folder = images("a.png")
    truncated_jpeg(folder / "broken.jpg")
    assert len(load(folder)) == 2  # one broken image fails one style, not the run
    (problem,) = check_catalog(folder, "default", {}).problems
    assert problem.style == "broken"
    assert problem.message.endswith("broken.jpg: the JPEG data is truncated")
    assert problem.remedy == "replace the file"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ":1: it has no list of styles; write"),
        ("- image: a.png\n", ":1: it has no list of styles; write"),
        ("styles: a.png\n", ":1: it has no list of styles; write"),
        ("styles: []\n", ": the catalog is empty; name a style image"),
        ("styles:\n  - {image: a.png\n", ":3: not valid YAML"),
        ("styles:\n\t- image: a.png\n", ":2: not valid YAML"),
    ],
)
def test_invalid_catalogs(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text(text)
    with pytest.raises(CatalogError) as refused:
        load(path)
    (problem,) = refused.value.problems
    assert str(problem).startswith(f"{path}{says}")


def test_missing_catalogs(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("styles")
    (tmp_path / "latin.csv").write_bytes(b"image\n\xff.png\n")
    none = "not a catalog; give a YAML, JSON or CSV file, a folder of images, or an image"
    for name, says in (
        ("catalog.yaml", "no such file"),
        ("nowhere", none),
        ("notes.txt", none),
        ("latin.csv", "not UTF-8 at byte 6"),
    ):
        with pytest.raises(UserError) as refused:
            load(tmp_path / name)
        assert str(refused.value).startswith(f"{tmp_path / name}: {says}")


def test_check_command(images: Callable[..., Path]) -> None:
    folder = images("a.png", "b.png")
    assert cli("catalog", "check", folder).out == "2 style(s), 0 problem(s)\n"
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes())
    ran = cli("catalog", "check", folder, "--json")
    assert ran.code == 1
    (problem,) = ran.document["problems"]
    assert (problem["style"], problem["message"]) == ("c", "the same image as a.png ('a')")
    assert cli("catalog", "check", folder / "nowhere").code == 2


def test_check_prints_problems_as_data(images: Callable[..., Path]) -> None:
    path = images("a.png", "b.png") / "catalog.yaml"
    path.write_text(
        """styles:
  - image: a.png
    overrides:
      preset: fast
      batch_size: 0
    tags:
      - oil
      - 2026-01-01
gate:
  - lpips<1
  - lpip<.nan
"""
    )
    found = cli("catalog", "check", path, "--json").document["problems"]
    assert [(p["line"], p["field"], p["value"]) for p in found] == [
        (4, "overrides.preset", "fast"),
        (5, "overrides.batch_size", 0),
        (8, "tags[1]", "2026-01-01"),
        (11, "gate[1].metric", "lpip"),
        (11, "gate[1].limit", ".nan"),
    ]
    assert found[1]["allowed"] == "a whole number in [1, 1024]"
    assert all(p["file"] == str(path) and p["message"] and p["remedy"] for p in found)
    assert [p["style"] for p in found] == ["a", "a", None, None, None]


def test_the_shipped_schema_matches_the_models() -> None:
    assert shipped_schema() == schema_text(), "run: python docs/generate_reference.py"
    schema = json.loads(cli("catalog", "schema").out)
    entry = schema["$defs"]["EntryInput"]["properties"]
    for field in (*schema["properties"].values(), *entry.values()):
        assert field["description"]
    settings = entry["overrides"]["properties"]
    # A setting of both methods has the form of either.
    forms = [f for s in settings.values() for f in ([s] if "description" in s else s["anyOf"])]
    assert all(form["description"] for form in forms)
    assert set(settings) == {*TrainSettings.model_fields, *StyleSettings.model_fields}
    assert settings["spacing"]["enum"] == ["leading", "trailing", "quadratic"]
    sizes = settings["batch_size"]["anyOf"]
    assert [(size["minimum"], size["maximum"]) for size in sizes] == [(1, 1024)] * 2
    assert settings["keep_best"]["type"] == "boolean"

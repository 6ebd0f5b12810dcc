"""YAML and JSON catalogs: merge keys, notes, and text that YAML reads as something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from factory.catalog import check_catalog
from tests.factory.catalog.conftest import load, problems
from tests.factory.conftest import cli


def test_merge_keys_aliases_and_notes(images: Callable[..., Path]) -> None:
    path = images("a.png", "b.png", "c.png") / "catalog.yaml"
    path.write_text(
        """x-defaults: &defaults {licence: CC0, tags: [oil]}
x-fast: &fast {overrides: {iterations: 3}}
styles:
  - &first {<<: *defaults, image: a.png, x-note: {no: 1}}
  - {<<: *first, image: b.png, licence: MIT}
  - <<: [*fast, *defaults]
    image: c.png
"""
    )
    assert [(e.id, e.licence, e.tags, e.overrides) for e in load(path)] == [
        ("a", "CC0", ("oil",), {}),
        ("b", "MIT", ("oil",), {}),
        ("c", "CC0", ("oil",), {"iterations": 3}),
    ]


def test_a_block_for_an_anchor_is_told_its_name(images: Callable[..., Path]) -> None:
    path = images("a.png") / "catalog.yaml"
    path.write_text("defaults: &d {tags: [oil]}\nstyles:\n  - {<<: *d, image: a.png}\n")
    assert problems(path) == [
        "1: unknown field 'defaults'; a catalog has styles and gate; the name of a block that only "
        "holds an anchor begins with x-, such as x-defaults"
    ]


def test_a_loop_of_aliases(images: Callable[..., Path]) -> None:
    path = images("a.png") / "catalog.yaml"
    path.write_text("styles: &loop\n  - *loop\n")
    assert problems(path) == ["1: an entry is a list, not a mapping; write at least `image: FILE`"]
    path.write_text("styles:\n  - &loop {<<: *loop, image: a.png}\n")
    assert [e.id for e in load(path)] == ["a"]


@pytest.mark.parametrize(
    ("written", "reading"),
    [
        ("0777", "a number"),
        ("2026", "a number"),
        ("0x1F", "a number"),
        ("1_000", "a number"),
        ("12:30", "a number"),
        ("1.0", "a number"),
        (".inf", "a number"),
        ("2024-01-01", "a date"),
        ("2024-01-01 10:00:00", "a date"),
        ("no", "true or false"),
        ("On", "true or false"),
        ("TRUE", "true or false"),
        ("null", "no value"),
    ],
)
def test_text_that_yaml_misreads_is_refused_and_never_changed(
    images: Callable[..., Path], written: str, reading: str
) -> None:
    path = images("a.png") / "catalog.yaml"
    quotes = f"which is {reading} in YAML; it must be text: put it in quotes"
    for field in ("id", "licence", "image"):
        other = "" if field == "image" else "image: a.png\n    "
        path.write_text(f"styles:\n  - {other}{field}: {written}\n")
        catalog = check_catalog(path, "default", {})
        problem = catalog.problems[0]
        assert str(problem) == f"{path}:{3 if other else 2}: {field} is {written}, {quotes}"
        assert (problem.field, problem.value) == (field, written)
        # The file's name or the number 511 are no ids of this entry.
        if field == "id":
            assert [e.id for e in catalog.entries] == [written]
    path.write_text(f"styles:\n  - image: a.png\n    tags:\n      - oil\n      - {written}\n")
    assert problems(path) == [f"5: tags[1] is {written}, {quotes}"]
    path.write_text(f"styles:\n  - {{image: a.png, licence: '{written}', tags: [\"{written}\"]}}\n")
    assert [(e.licence, e.tags) for e in load(path)] == [(written, (written,))]


def test_all_misread_values_are_named_at_once(images: Callable[..., Path]) -> None:
    path = images("a.png", "b.png", "c.png") / "catalog.yaml"
    path.write_text(
        """x-base: &base
  licence: no
styles:
  - {<<: *base, image: a.png, id: 0777, overrides: {lr_unet: 5e-6, batch_size: yes}}
  - {<<: *base, image: b.png, id: 0777, counterpart: 12:30}
  - {image: c.png, id: null}
gate: [lpips<1, no, [5]]
"""
    )
    assert problems(path) == [
        # Once, although two entries share it.
        "2: licence is no, which is true or false in YAML; it must be text: put it in quotes",
        "4: id is 0777, which is a number in YAML; it must be text: put it in quotes",
        "4: overrides.batch_size is yes; it must be a whole number in [1, 1024]",
        "4: overrides.lr_unet is 5e-6, which is text in YAML; it must be a number in [0, 1]: "
        "write 5.0e-06 without quotes",
        "5: id is 0777, which is a number in YAML; it must be text: put it in quotes",
        "5: counterpart is 12:30, which is a number in YAML; it must be text: put it in quotes",
        "5: id '0777' is already used by line 4; give one of them another id",
        "6: id is null, which is no value in YAML; it must be text: put it in quotes",
        "7: gate[1] is no, which is true or false in YAML; it must be text: put it in quotes",
        "7: gate[2] is [5]; it must be a condition such as style_distance<=0.8",
    ]


def test_fields_without_a_value_take_their_defaults(images: Callable[..., Path]) -> None:
    path = images("a.png", "b.png") / "catalog.yaml"
    path.write_text(
        "styles:\n  - {image: a.png, id: , licence: ~, tags: null, counterpart: null}\n"
        "  - image: b.png\n    id:\n    overrides:\ngate:\n"
    )
    assert [(e.id, e.licence, e.tags) for e in load(path)] == [("a", "", ()), ("b", "", ())]


@pytest.mark.parametrize("name", ["c.json", "c.yaml"])
def test_json_catalogs(images: Callable[..., Path], name: str) -> None:
    path = images("a.png", "b.png") / name
    data = {
        "x-note": 1,
        "styles": [
            {"image": "a.png", "licence": None, "overrides": {"lr_unet": 5e-06}},
            {"image": "b.png", "id": "two"},
        ],
        "gate": ["lpips<1"],
    }
    path.write_text(json.dumps(data, indent="\t"), encoding="utf-8-sig")
    first, second = load(path)
    assert (first.id, first.overrides, first.line) == ("a", {"lr_unet": 5e-06}, 4)
    assert (second.id, second.line) == ("two", 11)
    data["styles"] = [{"image": "a.png", "id": 2026, "tags": ["x", True]}, {"image": 5}]
    path.write_text(json.dumps(data, indent=1))
    assert problems(path) == [
        "6: id is 2026, which is a number in JSON; it must be text: put it in quotes",
        "9: tags[1] is true, which is true or false in JSON; it must be text: put it in quotes",
        "13: image is 5, which is a number in JSON; it must be text: put it in quotes",
    ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_encodings_and_paths_of_windows(images: Callable[..., Path], encoding: str) -> None:
    path = images("photos/new.png") / "catalog.yaml"
    path.write_bytes("styles:\r\n  - image: 'photos\\new.png'\r\n".encode(encoding))
    assert [e.id for e in load(path)] == ["new"]
    path.write_bytes('styles:\r\n  - image: "photos\\new.png"\r\n'.encode(encoding))
    assert problems(path) == [
        "2: image is 'photos\\new.png', with a line break or another control character; in double "
        "quotes \\ begins an escape; use single quotes, or / between folders"
    ]


def test_a_repeated_list_of_styles(images: Callable[..., Path]) -> None:
    path = images("a.png", "b.png") / "catalog.yaml"
    path.write_text("styles: [{image: a.png}]\nstyles: [{image: b.png}]\ngate: 5\n")
    catalog = check_catalog(path, "default", {})
    assert [(p.line, p.field) for p in catalog.problems] == [(2, "styles"), (3, "gate")]


def test_the_check_command_exits_with_1(images: Callable[..., Path]) -> None:
    path = images("a.png") / "catalog.yaml"
    path.write_text("styles:\n  - {image: a.png, id: 0777}\n")
    ran = cli("catalog", "check", path)
    assert (ran.code, ran.out.count("put it in quotes")) == (1, 1)

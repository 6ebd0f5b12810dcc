"""YAML and JSON files: lines, values as written, and errors that cannot be parsed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field

from factory.core.yaml_files import YamlFileError, place_of, read_yaml_file
from osasis.validation import InputModel, InvalidInputError


class Part(InputModel):
    name: str
    share: float = 1.0


class Whole(InputModel):
    subject: ClassVar[str] = "whole"

    title: str | None = None
    count: int = 1
    parts: tuple[Part, ...] = Field((), strict=False)
    needed: str


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_every_problem_has_its_line_and_the_value_as_written(tmp_path: Path) -> None:
    path = written(
        tmp_path / "whole.yaml",
        """x-note: 1
count: 1e3
title: 1_000
parts:
  - {name: no, share: 1e-3}
  - &part
    name: 2024-01-01
    shares: 2
  - <<: *part
    name: fine
count: yes
""",
    )
    file = read_yaml_file(path)
    with pytest.raises(InvalidInputError) as refused:
        file.parse(Whole)
    assert str(refused.value).split("; line ") == [
        f"{path}: line 1: needed is missing; it must be text",
        "3: title is 1_000, which is a number in YAML; it must be text: put it in quotes",
        "5: parts[0].name is no, which is true or false in YAML; it must be text: put it in quotes",
        "5: parts[0].share is 1e-3, which is text in YAML; it must be a number: write 1.0e-03 "
        "without quotes",
        "7: parts[1].name is 2024-01-01, which is a date in YAML; it must be text: put it in "
        "quotes",
        "8: unknown field 'shares' of parts[1] (nearest: share)",
        "8: unknown field 'shares' of parts[2] (nearest: share)",
        "11: field 'count' is repeated (first in line 2)",
        "11: count is yes; it must be a whole number",
    ]


def test_missing_fields_can_be_allowed(tmp_path: Path) -> None:
    file = read_yaml_file(written(tmp_path / "whole.yaml", "title:\ncount: 2\n"))
    assert file.parse(Whole, required=False) is None
    whole = read_yaml_file(written(tmp_path / "whole.yaml", "needed: x\n")).parse(Whole)
    assert whole == Whole(needed="x")


def test_places(tmp_path: Path) -> None:
    places = read_yaml_file(written(tmp_path / "a.yaml", "a:\n  b: [1,\n   no]\n")).places(3)
    assert (places["a"].line, places["a.b"].line, places["a.b[1]"].line) == (1, 2, 3)
    assert (places["a.b[1]"].text, places["a.b[1]"].reading) == ("no", "true or false")
    place = place_of("a.b[7].c", places)
    assert place is not None and place.line == 2


def test_json_is_read_as_json_under_any_name(tmp_path: Path) -> None:
    text = '{\n\t"rate": 1e-5,\n\t"on": [true, null],\n\t"x-note": "\\ud83d\\ude00"\n}\n'
    for name in ("a.json", "a.yaml", "a.conf"):
        file = read_yaml_file(written(tmp_path / name, text))
        assert (file.data, file.language) == ({"rate": 1e-05, "on": [True, None]}, "JSON")
        assert file.places(2)["on"].line == 3
    flow = read_yaml_file(written(tmp_path / "a.yaml", "{rate: 1.0e-5, on: [yes, ~]}"))
    assert flow.data == {"rate": 1e-05, "on": [True, None]}


def test_keys_are_text_as_written(tmp_path: Path) -> None:
    file = read_yaml_file(written(tmp_path / "a.yaml", "no: =\n0777: <<\n2024-01-01: 2024-13-01\n"))
    assert file.data == {"no": "=", "0777": "<<", "2024-01-01": "2024-13-01"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a:\n\tb: 1\n", ":2: not valid YAML (a tab); write spaces instead"),
        (
            'a: "C:\\pics"\n',
            ":1: not valid YAML (found unknown escape character 'p'); write text with \\ in single "
            "quotes, or without quotes",
        ),
        ("a: 1\nb: x\x07y\n", ":2: the character '\\x07' is not allowed; remove it"),
        ("a: " + "[" * 3000, ": not valid YAML (nested too deeply); write it flatter"),
        (
            "a: {{ b }}\n",
            ":1: not valid YAML (a key is a list or mapping; text with { or [ needs quotes); "
            "correct this line",
        ),
        ("a: *b\n", ":1: not valid YAML (found undefined alias 'b'); correct this line"),
        (
            "a: {<<: b}\n",
            ":1: not valid YAML (expected a mapping or list of mappings for merging, but found "
            "scalar); correct this line",
        ),
    ],
)
def test_files_that_cannot_be_parsed(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path / "a.yaml", text)
    with pytest.raises(YamlFileError) as refused:
        read_yaml_file(path)
    assert str(refused.value) == f"{path}{says}"


LEVELS = range(1, 30)


@pytest.mark.parametrize(
    "bomb",
    [
        "".join(f"l{i}: &l{i} [*l{i - 1}, *l{i - 1}]\n" for i in LEVELS),
        "".join(f"l{i}: &l{i} {{<<: [*l{i - 1}, *l{i - 1}], k{i}: 1}}\n" for i in LEVELS),
    ],
    ids=["lists", "merges"],
)
def test_aliases_that_multiply_values_are_refused_at_once(tmp_path: Path, bomb: str) -> None:
    path = written(tmp_path / "a.yaml", "l0: &l0 {a: 1}\n" + bomb)
    started = time.monotonic()
    with pytest.raises(YamlFileError) as refused:
        read_yaml_file(path)
    assert time.monotonic() - started < 5
    says = "its aliases stand for more than 1,000,000 values; use no aliases within aliases"
    assert str(refused.value) == f"{path}: {says}"


def test_long_files_and_repeated_aliases_are_read(tmp_path: Path) -> None:
    """One block that 3,000 entries merge, as a large catalog has it."""
    head = "x-all: &all {" + ", ".join(f"k{i}: {i}" for i in range(200)) + "}\n"
    entries = "".join(f"- {{<<: *all, own: {i}}}\n" for i in range(3000))
    path = written(tmp_path / "a.yaml", f"{head}styles:\n{entries}")
    styles = read_yaml_file(path).data["styles"]
    assert (len(styles), len(styles[-1]), styles[-1]["own"]) == (3000, 201, 2999)


def test_invalid_json_names_the_line(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", '{"a": 1,\n "b": 0777}')
    with pytest.raises(YamlFileError) as refused:
        read_yaml_file(path)
    assert str(refused.value).startswith(f"{path}:2: not valid JSON (")

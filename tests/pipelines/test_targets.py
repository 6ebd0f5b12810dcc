"""Files of mix parameters."""

from __future__ import annotations

from pathlib import Path

import pytest

from osasis.errors import UserError
from osasis.validation import InvalidInputError
from pipelines.targets import read_mix_file


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_mixes_of_any_editor(tmp_path: Path, encoding: str) -> None:
    for name, text in (
        ("mix.json", '{\r\n\t"styles": ["oil"],\r\n\t"strength": 1e-1\r\n}'),
        ("mix.yaml", "styles: [oil]\r\nstrength: 0.1\r\n"),
    ):
        (tmp_path / name).write_bytes(text.encode(encoding))
        assert read_mix_file(tmp_path / name) == {"styles": ["oil"], "strength": 0.1}


def test_a_mix_without_styles(tmp_path: Path) -> None:
    (tmp_path / "mix.json").write_text('{"strength": 0.8}')
    assert read_mix_file(tmp_path / "mix.json") == {"strength": 0.8}


def test_every_problem_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mix.yaml"
    path.write_text("styles:\n  - no\n  - {style: 0777, mask: 2024-01-01}\ntext_edit: 1_000\n")
    with pytest.raises(InvalidInputError) as refused:
        read_mix_file(path)
    assert str(refused.value).split("; line ") == [
        f"{path}: line 2: styles[0] is no, which is true or false in YAML; it must be text: put "
        "it in quotes",
        "3: styles[1].style is 0777, which is a number in YAML; it must be text: put it in quotes",
        "3: styles[1].mask is 2024-01-01, which is a date in YAML; it must be text: put it in "
        "quotes",
        "4: text_edit is 1_000, which is a number in YAML; it must be text: put it in quotes",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1]", ": not an object such as"),
        ('{"a": 1,}', ":1: not valid JSON ("),
        (None, ": no such"),
    ],
)
def test_files_that_are_no_mix(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "mix.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as refused:
        read_mix_file(path)
    assert str(refused.value).startswith(f"--mix-file {path}{says}")

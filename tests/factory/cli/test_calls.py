"""Parsing of command lines: help, version, completion, mistakes. No test starts Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from factory import __version__
from factory.cli.app import app
from factory.core.failures import KINDS as FAILURES
from factory.methods import all_methods
from factory.reports.progress import KINDS as PROGRESS
from osasis.guides.perceptual import NETS
from pipelines.options import OutputOptions
from tests.factory.conftest import cli


def commands(group: Any = None, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command and its full name, without groups."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        words = f"{path} {name}".strip()
        if isinstance(command, TyperGroup):
            yield from commands(command, words)
        else:
            yield words, command


COMMANDS = dict(commands())


def choices(command: str, option: str) -> set[str]:
    """The choices of an option."""
    (param,) = (p for p in COMMANDS[command].params if p.name == option)
    return set(param.type_descriptor.choices)


def test_commands() -> None:
    assert set(COMMANDS) == {
        *("train", "text-edit", "stylize", "evaluate", "inspect", "serve", "doctor"),
        *("catalog check", "catalog schema", "slots add", "slots show"),
        *(f"styles {name}" for name in ("list", "show", "compare", "promote", "rollback")),
        *(f"styles {name}" for name in ("delete", "compact", "export", "import")),
        *(
            f"base {name}"
            for name in ("import", "train", "evaluate", "train-guide", "train-predictor")
        ),
        *(f"base {name}" for name in ("list", "info", "train-diffstyler")),
    }


@pytest.mark.parametrize("words", COMMANDS)
def test_help_is_plain_and_names_every_option(words: str) -> None:
    ran = cli(*words.split(), "--help")
    assert (ran.code, ran.err) == (0, "")
    assert "\x1b" not in ran.out and "─" not in ran.out
    command = COMMANDS[words]
    assert command.help.split("\n")[0].endswith(".")
    for param in command.params:
        assert param.help.endswith("."), param
        assert param.param_type_name == "argument" or param.opts[0] in ran.out
    assert {"--home", "--json"} <= {name for p in command.params for name in p.opts}


def test_help_groups_options() -> None:
    out = cli("stylize", "--help").out
    titles = [line for line in out.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles == [
        *("Inputs:", "Outputs:", "Mix:", "Cluster:", "Failures:", "Installation:", "Options:")
    ]


def test_choices_are_those_of_the_models() -> None:
    presets = {name for method in all_methods() for name in method.presets}
    assert choices("train", "preset") == choices("catalog check", "preset") == presets
    assert choices("train", "progress") == set(PROGRESS)
    assert choices("base import", "perceptual") == set(NETS)
    properties = OutputOptions.model_json_schema()["properties"]
    for option in ("fit", "size", "format", "encoding", "metadata", "no_face"):
        # "jpg" is an alias of "jpeg".
        assert choices("stylize", option) - {"jpg"} == set(properties[option]["enum"])
    (retry_on,) = (p for p in COMMANDS["train"].params if p.name == "retry_on")
    assert all(kind in retry_on.help for kind in FAILURES)


def test_version() -> None:
    ran = cli("--version")
    assert (ran.code, ran.out) == (0, f"style-factory {__version__}\n")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("trian x", "unknown command 'trian' (nearest: train); it must be one of train, "),
        ("styles lst", "unknown command 'lst' (nearest: list); it must be one of list, show, "),
        ("styles", "COMMAND is missing; choose one of list, show, "),
        ("train x --prest fast", "unknown option --prest (nearest: --preset"),
        ("train", "CATALOG is missing; see `style-factory train --help`"),
        ("train x y", "got unexpected extra argument(s) (y); see `style-factory train --help`"),
        ("train x --slots", "option '--slots' requires an argument"),
        ("train x --slots two", "--slots is 'two'; it must be a whole number from 1"),
        ("slots add latest 0", "COUNT is 0; it must be a whole number from 1"),
        ("serve --port 70000", "--port is 70000; it must be a whole number in [1, 65535]"),
        ("stylize --input a --output b --timeout-per-image 0", "--timeout-per-image is 0; it must"),
        ("serve --new-key me", "--new-key needs --keys FILE"),
        ("styles import x --base y", "--base goes with --checkpoint"),
    ],
)
def test_mistakes(call: str, error: str) -> None:
    ran = cli(*call.split())
    assert (ran.code, ran.out) == (2, "")
    assert ran.error.startswith(error)


def test_every_bad_option_is_reported_at_once() -> None:
    call = "stylize --input a --fit crob --quality 900 --json"
    ran = cli(*call.split())
    assert ran.code == 2
    problems = {p["field"]: p for p in ran.document["problems"]}
    assert set(problems) == {"--output", "--fit", "--quality"}
    assert problems["--fit"]["value"] == "crob"
    assert problems["--fit"]["allowed"] == "one of crop, pad, resize, align, whole"
    assert problems["--quality"]["allowed"] == "a whole number in [1, 100]"
    assert len(ran.err.splitlines()) == 3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("style-factory st", {"styles", "stylize"}),
        ("style-factory stylize --fit ", {"crop", "pad", "resize", "align", "whole"}),
        ("style-factory base train --im", {"--images"}),
    ],
)
def test_completion(line: str, words: set[str]) -> None:
    environment = {
        **os.environ,
        "_STYLE_FACTORY_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
    }
    ran = subprocess.run(
        [sys.executable, "-m", "factory.cli"],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    assert set(ran.stdout.split()) == words


def test_help_and_completion_import_nothing_heavy() -> None:
    code = (
        "import sys; from factory.cli import main; main(['stylize', '--help']); "
        "heavy = {'torch', 'ray', 'mlflow', 'pyarrow', 'numpy', 'rich'} & set(sys.modules); "
        "print(sorted(heavy), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr == "[]\n"


def test_home_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = cli("base", "list", "--home", tmp_path / "file")
    assert ran.code == 2
    assert ran.error == f"home {tmp_path / 'file'} is a file; give a folder with --home"


def test_places_in_object_stores_that_must_be_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cli("styles", "export", "oil", "s3://key:secret@bucket/oil.zip", "--home", tmp_path)
    assert ran.code == 2
    assert ran.error == "TARGET is s3://bucket/oil.zip; it must be a path, not a URI"
    assert list(tmp_path.iterdir()) == []
    assert cli("base", "list", "--home", tmp_path.as_uri()).code == 0


def test_a_home_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    home = tmp_path / "file" / "home"
    ran = cli("styles", "show", "oil", "--home", home)
    assert ran.code == 2
    assert ran.error == f"{home}: not a directory; give a place that this user may use"

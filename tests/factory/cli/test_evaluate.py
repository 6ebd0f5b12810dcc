"""`style-factory evaluate`, with a real Ray and registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.factory.cli.conftest import assert_problems
from tests.factory.conftest import Ran, cli
from tests.tiny import picture


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(2):
        picture(200 + i).save(folder / f"{i}.png")
    return folder


def evaluate(home: Path, photos: Path, output: Path, *options: str) -> Ran:
    return cli(
        *("evaluate", "--home", home, "--styles", "oil,ink", "--photos", photos),
        *("--output", output, "--metrics", "lpips,direction", "--workers", "1", *options),
    )


def test_evaluate_prints_one_document_and_logs_the_results(
    trained_home: Path, photos: Path, tmp_path: Path
) -> None:
    ran = evaluate(trained_home, photos, tmp_path, "--baselines", "reinhard", "--json")
    assert ran.code == 0, ran.err
    document = ran.document
    assert document["photos"] == 2 and document["variants"] == ["ours", "reinhard"]
    assert list(document["results"]) == ["oil", "ink", "all styles"]
    value = document["results"]["ink"]["ours"]["lpips"]["value"]
    shown = cli("styles", "show", "ink", "--home", trained_home, "--json").document
    assert shown["metrics"]["evaluate.lpips"] == pytest.approx(value)
    compared = cli("styles", "compare", "oil", "ink", "--home", trained_home, "--json").document
    assert compared["metrics"]["evaluate.lpips"]["ink:1"] == pytest.approx(value)


def test_a_missed_gate_is_exit_code_1_and_named(
    trained_home: Path, photos: Path, tmp_path: Path
) -> None:
    ran = evaluate(trained_home, photos, tmp_path, "--gate", "evaluate.lpips>=99")
    assert ran.code == 1
    assert "ink:1 misses the gate (evaluate.lpips is " in ran.out
    assert cli("styles", "show", "ink@champion", "--home", trained_home).code == 0


def test_mistakes(trained_home: Path, photos: Path, tmp_path: Path) -> None:
    ran = evaluate(trained_home, photos, tmp_path, "--sweep", "strenght=1")
    assert ran.code == 2
    assert "'strenght' is no field of the mix (nearest: strength" in ran.error
    ran = evaluate(trained_home, photos, tmp_path, "--gate", "evaluate.lpip<1", "--json")
    assert_problems(ran, ["gate[0].metric"])
    assert not list(tmp_path.iterdir())

"""`style-factory evaluate`, with a real Ray and registry."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from factory.core.home import Home
from factory.registry import list_versions
from osasis.bundles.style import load_style
from pipelines.retraining import FOLDER
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


@pytest.mark.slow
@pytest.mark.ci
def test_evaluate_prints_one_document_and_logs_the_results(
    gallery_home: Path, photos: Path, tmp_path: Path
) -> None:
    ran = evaluate(gallery_home, photos, tmp_path, "--baselines", "reinhard", "--json")
    assert ran.code == 0, ran.err
    document = ran.document
    assert document["photos"] == 2 and document["variants"] == ["ours", "reinhard"]
    assert list(document["results"]) == ["oil", "ink", "all styles"]
    value = document["results"]["ink"]["ours"]["lpips"]["value"]
    shown = cli("styles", "show", "ink", "--home", gallery_home, "--json").document
    assert shown["metrics"]["evaluate.lpips"] == pytest.approx(value)
    compared = cli("styles", "compare", "oil", "ink", "--home", gallery_home, "--json").document
    assert compared["metrics"]["evaluate.lpips"]["ink:1"] == pytest.approx(value)


@pytest.mark.slow
def test_a_missed_gate_is_exit_code_1_and_named(
    trained_home: Path, photos: Path, tmp_path: Path
) -> None:
    ran = evaluate(trained_home, photos, tmp_path, "--gate", "evaluate.lpips>=99")
    assert ran.code == 1
    assert "ink:1 misses the gate (evaluate.lpips is " in ran.out
    assert cli("styles", "show", "ink@champion", "--home", trained_home).code == 0


@pytest.mark.slow
def test_training_settings_are_swept_in_a_home_of_their_own(
    trained_home: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", Home(trained_home).own_tracking_uri)
    before = {s: [v.reference for v in vs] for s, vs in list_versions(Home(trained_home)).items()}
    options = ("--styles", "oil", "--sweep", "lr_unet=0.0,0.003", "--sweep", "in_domain=0",
               "--baselines", "no-in-domain")  # fmt: skip
    ran = evaluate(trained_home, photos, tmp_path, *options, "--json")
    assert ran.code == 0, ran.err
    document = ran.document
    variants = ["lr_unet=0.0", "lr_unet=0.003", "in_domain=0", "no-in-domain"]
    assert document["variants"] == variants
    assert document["styles"] == {"oil": "oil:2"} and not document["registered"]
    none, much, *same = (document["results"]["oil"][v]["lpips"]["value"] for v in variants)
    assert none < much and same[0] == same[1]
    # The home's registry is as before; the others are in the evaluation's own.
    after = list_versions(Home(trained_home))
    assert before == {s: [v.reference for v in vs] for s, vs in after.items()}
    own = Home(tmp_path / FOLDER, own_registry=True)
    trained = list_versions(own)
    assert set(document["retrained"].values()) == set(trained) and len(trained) == 3
    settings = load_style(after["oil"][0].folder()).settings
    changes = [{"lr_unet": 0.0}, {"lr_unet": 0.003}, {"in_domain": 0}, {"in_domain": 0}]
    for variant, change in zip(variants, changes, strict=True):
        (version,) = trained[document["retrained"][f"oil/{variant}"]]
        style = load_style(version.folder())
        assert style.settings == settings.replace(**change)
        folders = version.folder(), after["oil"][0].folder()
        first, second = ((f / "style.png").read_bytes() for f in folders)
        assert first == second
    with Image.open(tmp_path / "evaluation.png") as grid:
        assert grid.width > 6 * 128  # photo, style, four variants
    jobs = list(own.jobs.iterdir())
    again = evaluate(trained_home, photos, tmp_path, *options, "--json").document
    assert again["results"] == document["results"]
    assert list(own.jobs.iterdir()) == jobs  # nothing was trained again


def test_faulty_training_settings_are_named_before_anything_is_trained(
    trained_home: Path, photos: Path, tmp_path: Path
) -> None:
    options = ("--sweep", "in_domain=-1", "--sweep", "iterations=many", "--json")
    ran = evaluate(trained_home, photos, tmp_path, *options)
    assert_problems(ran, ["in_domain", "iterations"])
    assert not list(tmp_path.iterdir())


def test_mistakes(trained_home: Path, photos: Path, tmp_path: Path) -> None:
    ran = evaluate(trained_home, photos, tmp_path, "--sweep", "strenght=1")
    assert ran.code == 2
    assert "'strenght' is no field of the mix and no training setting (nearest" in ran.error
    ran = evaluate(trained_home, photos, tmp_path, "--gate", "evaluate.lpip<1", "--json")
    assert_problems(ran, ["gate[0].metric"])
    assert not list(tmp_path.iterdir())

"""`style-factory train` and `styles`, with a real Ray and registry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from factory.core.home import Home
from factory.registry import Registry
from osasis.contents import HELD_OUT
from osasis.losses import LOSS_NAMES
from tests.factory.cli.conftest import assert_problems
from tests.factory.conftest import Ran, cli
from tests.tiny import PHOTOS


def test_first_run_registers_the_good_styles_and_names_the_broken_file(first_run: Ran) -> None:
    assert first_run.code == 1
    styles = {s["id"]: s for s in first_run.document["styles"]}
    assert {k: s["state"] for k, s in styles.items()} == {
        "broken": "failed",
        "ink": "registered",
        "oil": "registered",
    }
    assert styles["oil"]["version"] == styles["ink"]["version"] == 1
    assert styles["broken"]["reason"].endswith("broken.jpg: the JPEG data is truncated")
    events = [json.loads(line) for line in first_run.err.splitlines() if line.startswith("{")]
    failures = [e for e in events if e.get("style") == "broken" and e["state"] == "failed"]
    assert len(failures) == 1
    assert failures[0]["reason"].endswith("broken.jpg: the JPEG data is truncated")
    assert (failures[0]["kind"], styles["broken"]["kind"]) == ("image", "image")
    assert "Traceback" not in first_run.err
    assert set(styles["oil"]["metrics"]) == {"style_distance", "direction", "edges", "lpips"}


def test_first_run_writes_a_gallery_of_its_styles(first_run: Ran) -> None:
    page = Path(first_run.document["gallery"]).read_text()
    for style in ("oil", "ink", "broken"):
        assert f">{style}<" in page
    assert "broken.jpg: the JPEG data is truncated" in page
    # Style, counterpart and six previews of two styles, the six photos, and the broken one.
    assert page.count("data:image/webp;base64,") >= 2 * (2 + 6) + 6
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_progress_goes_to_standard_error(first_run: Ran) -> None:
    summary = "3 style(s) on base tiny: 2 to train, 0 registered before, 1 that cannot be trained"
    assert summary in first_run.err
    assert f"content bank: {PHOTOS - HELD_OUT} contents encoded" in first_run.err
    assert "oil: registered as version 1, champion" in first_run.err


def test_rerun_skips_what_is_registered(rerun: Ran) -> None:
    assert rerun.code == 0
    assert [(s["id"], s["state"], s["version"]) for s in rerun.document["styles"]] == [
        ("ink", "skipped", 1),
        ("oil", "skipped", 1),
    ]
    assert "0 to train, 2 registered before" in rerun.err
    assert "training on" not in rerun.err
    page = Path(rerun.document["gallery"]).read_text()
    assert ">oil<" in page
    assert ">ink<" in page


def test_changed_setting_gives_a_new_champion(trained_home: Path, changed_run: Ran) -> None:
    styles = {s["id"]: s for s in changed_run.document["styles"]}
    assert (styles["ink"]["state"], styles["ink"]["version"]) == ("skipped", 1)
    assert (styles["oil"]["state"], styles["oil"]["version"]) == ("registered", 2)
    shown = cli("styles", "show", "oil", "--home", trained_home, "--json").document
    assert (shown["version"], shown["aliases"]) == (2, ["champion"])
    old = cli("styles", "show", "oil:1", "--home", trained_home, "--json").document
    assert (old["version"], old["aliases"]) == (1, [])
    assert (old["settings"]["iterations"], shown["settings"]["iterations"]) == ("2", "3")


def test_diverged_style_fails_with_its_iteration(changed_run: Ran) -> None:
    assert changed_run.code == 1
    wild = next(s for s in changed_run.document["styles"] if s["id"] == "wild")
    assert wild["state"] == "failed"
    assert wild["version"] is None
    assert "training diverged at iteration 2, step " in wild["reason"]
    assert "\n" not in wild["reason"]


def test_name_of_another_project_fails_only_its_style(changed_run: Ran) -> None:
    churn, ink, oil, wild = changed_run.document["styles"]
    assert (churn["id"], churn["state"]) == ("churn", "failed")
    assert churn["reason"] == (
        "style 'churn': a registered model of another project has this name; choose another id"
    )
    assert [s["state"] for s in (ink, oil, wild)] == ["skipped", "registered", "failed"]


def test_styles_list(trained_home: Path) -> None:
    ran = cli("styles", "list", "--home", trained_home, "--json")
    assert ran.code == 0
    rows = {r["id"]: r for r in ran.document["styles"]}
    assert list(rows) == ["ink", "oil"]
    assert rows["oil"]["version"] == 2
    assert rows["oil"]["tags"] == ["oil", "portrait"]
    assert rows["oil"]["licence"] == "CC0"
    assert rows["ink"]["aliases"] == ["champion"]
    plain = cli("styles", "list", "--home", trained_home).out.splitlines()
    assert [line.split()[:4] for line in plain] == [
        ["ink", "version", "1", "champion"],
        ["oil", "version", "2", "champion"],
    ]


def test_styles_show(trained_home: Path) -> None:
    shown = cli("styles", "show", "ink", "--home", trained_home, "--json").document
    assert shown["base_name"] == "tiny"
    assert len(shown["fingerprint"]) == 16
    assert {"style_distance", "lpips", *LOSS_NAMES} <= set(shown["metrics"])
    assert shown["settings"]["batch_size"] == "2"
    assert shown["settings"]["spacing"] == "trailing"
    names = {p.name for p in Path(shown["folder"]).iterdir()}
    assert names == {
        *("style.json", "style.safetensors", "style.png", "counterpart.png"),
        *("MLmodel", "input_example.json", "training.json"),
    }
    plain = cli("styles", "show", "ink@champion", "--home", trained_home).out
    assert "fingerprint: " + shown["fingerprint"] in plain
    assert "  iterations: 2\n" in plain


def test_metrics_history_has_every_iteration(trained_home: Path) -> None:
    registry = Registry(Home(trained_home))
    for version, iterations in ((1, 2), (2, 3)):
        run = registry.get("oil", str(version)).run_id
        for name in LOSS_NAMES:
            history = registry.client.get_metric_history(run, name)
            # MLflow does not order points that were logged live.
            assert sorted(m.step for m in history) == list(range(1, iterations + 1))


def test_unknown_style_where_none_is_registered(trained_home: Path, tmp_path: Path) -> None:
    # Another home of the same process has it.
    assert cli("styles", "show", "oil", "--home", trained_home).code == 0
    ran = cli("styles", "show", "oil", "--home", tmp_path)
    assert ran.code == 2
    assert ran.out == ""
    assert "unknown style 'oil': none is registered" in ran.error


# Options, and the fields of the problems.
TRAIN_PROBLEMS = [
    (["--preset", "defalt"], ["--preset"]),
    (["--slots", "0", "--retries", "-1"], ["--slots", "--retries"]),
    (["--set", "iteration=2"], ["iteration"]),
    (["--set", "iterations=0"], ["iterations"]),
    (["--set", "iterations=two", "--set", "spacing=trailin"], ["iterations", "spacing"]),
    (["--set", "lr_unet=NaN"], ["lr_unet"]),
]
# Options, and a part of the error message.
TRAIN_MISTAKES = [
    (
        ["--base", "tinny"],
        "unknown base 'tinny': there are tiny, portraits64, portraits64-sd (nearest: tiny)",
    ),
    (
        ["--set", "spacing=leading", "--set", "decode_steps=600"],
        "a schedule of 600 steps is not possible",
    ),
    (["--set", "iterations"], "--set 'iterations': write NAME=VALUE"),
    (["--set", "preset=fast"], "'preset' is not a setting; choose a preset for the run (--preset)"),
    (["--previews", "nowhere"], "nowhere: no such folder"),
]


@pytest.mark.parametrize(("options", "fields"), TRAIN_PROBLEMS)
def test_train_problems(
    shared_home: Path, style_folder: Path, options: list[str], fields: list[str]
) -> None:
    ran = cli("train", style_folder, "--home", shared_home, "--json", *options)
    assert_problems(ran, fields)


@pytest.mark.parametrize(("options", "says"), TRAIN_MISTAKES)
def test_train_mistakes(
    shared_home: Path, style_folder: Path, options: list[str], says: str
) -> None:
    ran = cli("train", style_folder, "--home", shared_home, "--json", *options)
    assert ran.code == 2
    assert says in ran.error
    assert ran.document["error"] == ran.error

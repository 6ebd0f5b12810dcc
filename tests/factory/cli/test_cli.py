"""The command line, from a catalog to stylized photos, with a real Ray and registry."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from factory.core.home import Home
from factory.registry import Registry
from osasis.contents import HELD_OUT
from osasis.losses import LOSS_NAMES
from tests.factory.conftest import Ran, cli, sets
from tests.tiny import PHOTOS, picture, truncated_jpeg


@pytest.fixture(scope="module")
def workplace(fresh_home: Callable[[], Path], local_ray: None) -> Path:
    """A home that the commands of this module share."""
    return fresh_home()


def train(home: Path, catalog: Path, slots: int = 1) -> Ran:
    return cli(
        *("train", catalog, "--home", home, "--preset", "default", *sets()),
        *("--slots", str(slots), "--json"),
    )


@pytest.fixture(scope="module")
def first(workplace: Path, style_folder: Path) -> Ran:
    """Three styles, one of them on a truncated image."""
    return train(workplace, style_folder, slots=2)


@pytest.fixture(scope="module")
def second(workplace: Path, style_folder: Path, first: Ran) -> Ran:
    """The same images again, nothing changed."""
    assert first.code == 1
    good = workplace / "good"
    good.mkdir()
    for name in ("oil.png", "ink.png"):
        shutil.copy(style_folder / name, good / name)
    return train(workplace, good)


@pytest.fixture(scope="module")
def third(workplace: Path, style_folder: Path, second: Ran) -> Ran:
    """`ink` as before, `oil` with one setting changed, a style that diverges, and one whose name
    another project has taken in the registry."""
    assert second.code == 0
    Registry(Home(workplace)).client.create_registered_model("churn")
    catalog = workplace / "catalog.yaml"
    catalog.write_text(
        f"""styles:
  - id: churn
    image: {style_folder / "ink.png"}
    overrides: {{seed: 5}}
  - image: {style_folder / "ink.png"}
  - image: {style_folder / "oil.png"}
    overrides: {{iterations: 3}}
    tags: [oil, portrait]
    licence: CC0
  - id: wild
    image: {style_folder / "oil.png"}
    overrides: {{iterations: 9, lr_unet: 1.0, adam_beta2: 0.0}}
"""
    )
    return train(workplace, catalog)


@pytest.fixture(scope="module")
def registered(workplace: Path, third: Ran) -> Path:
    """The home after all three runs: oil:1, oil:2 and ink:1."""
    assert third.code == 1
    return workplace


# Training


def test_first_run_registers_the_good_styles_and_names_the_broken_file(first: Ran) -> None:
    assert first.code == 1
    styles = {s["id"]: s for s in first.document["styles"]}
    assert {k: s["state"] for k, s in styles.items()} == {
        "broken": "failed",
        "ink": "registered",
        "oil": "registered",
    }
    assert styles["oil"]["version"] == styles["ink"]["version"] == 1
    assert styles["broken"]["reason"].endswith("broken.jpg: the JPEG data is truncated")
    events = [json.loads(line) for line in first.err.splitlines() if line.startswith("{")]
    told = [e for e in events if e.get("style") == "broken" and e["state"] == "failed"]
    assert len(told) == 1
    assert told[0]["reason"].endswith("broken.jpg: the JPEG data is truncated")
    assert (told[0]["kind"], styles["broken"]["kind"]) == ("image", "image")
    assert "Traceback" not in first.err
    assert set(styles["oil"]["metrics"]) == {"style_distance", "direction", "edges", "lpips"}


def test_first_run_writes_a_gallery_of_its_styles(first: Ran) -> None:
    page = Path(first.document["gallery"]).read_text()
    for style in ("oil", "ink", "broken"):
        assert f">{style}<" in page
    assert "broken.jpg: the JPEG data is truncated" in page
    # Style, counterpart and six previews of two styles, the six photos, and the broken one.
    assert page.count("data:image/webp;base64,") >= 2 * (2 + 6) + 6
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_progress_goes_to_standard_error(first: Ran) -> None:
    told = "3 style(s) on base tiny: 2 to train, 0 registered before, 1 that cannot be trained"
    assert told in first.err
    assert f"content bank: {PHOTOS - HELD_OUT} contents encoded" in first.err
    assert "oil: registered as version 1, champion" in first.err


def test_rerun_skips_what_is_registered(second: Ran) -> None:
    assert second.code == 0
    assert [(s["id"], s["state"], s["version"]) for s in second.document["styles"]] == [
        ("ink", "skipped", 1),
        ("oil", "skipped", 1),
    ]
    assert "0 to train, 2 registered before" in second.err
    assert "training on" not in second.err
    page = Path(second.document["gallery"]).read_text()
    assert ">oil<" in page
    assert ">ink<" in page


def test_changed_setting_gives_a_new_champion(registered: Path, third: Ran) -> None:
    styles = {s["id"]: s for s in third.document["styles"]}
    assert (styles["ink"]["state"], styles["ink"]["version"]) == ("skipped", 1)
    assert (styles["oil"]["state"], styles["oil"]["version"]) == ("registered", 2)
    shown = cli("styles", "show", "oil", "--home", registered, "--json").document
    assert (shown["version"], shown["aliases"]) == (2, ["champion"])
    old = cli("styles", "show", "oil:1", "--home", registered, "--json").document
    assert (old["version"], old["aliases"]) == (1, [])
    assert (old["settings"]["iterations"], shown["settings"]["iterations"]) == ("2", "3")


def test_diverged_style_fails_with_its_iteration(third: Ran) -> None:
    assert third.code == 1
    wild = next(s for s in third.document["styles"] if s["id"] == "wild")
    assert wild["state"] == "failed"
    assert wild["version"] is None
    assert "training diverged at iteration 2, step " in wild["reason"]
    assert "\n" not in wild["reason"]


def test_a_name_that_is_taken_fails_its_style_only(third: Ran) -> None:
    churn, ink, oil, wild = third.document["styles"]
    assert (churn["id"], churn["state"]) == ("churn", "failed")
    assert churn["reason"] == (
        "style 'churn': a registered model of another project has this name; choose another id"
    )
    assert [s["state"] for s in (ink, oil, wild)] == ["skipped", "registered", "failed"]


def test_styles_list(registered: Path) -> None:
    ran = cli("styles", "list", "--home", registered, "--json")
    assert ran.code == 0
    rows = {r["id"]: r for r in ran.document["styles"]}
    assert list(rows) == ["ink", "oil"]
    assert rows["oil"]["version"] == 2
    assert rows["oil"]["tags"] == ["oil", "portrait"]
    assert rows["oil"]["licence"] == "CC0"
    assert rows["ink"]["aliases"] == ["champion"]
    plain = cli("styles", "list", "--home", registered).out.splitlines()
    assert [line.split()[:4] for line in plain] == [
        ["ink", "version", "1", "champion"],
        ["oil", "version", "2", "champion"],
    ]


def test_styles_show(registered: Path) -> None:
    shown = cli("styles", "show", "ink", "--home", registered, "--json").document
    assert shown["base_name"] == "tiny"
    assert len(shown["fingerprint"]) == 16
    assert {"style_distance", "lpips", *LOSS_NAMES} <= set(shown["metrics"])
    assert shown["settings"]["batch_size"] == "2"
    assert shown["settings"]["spacing"] == "trailing"
    names = {p.name for p in Path(shown["folder"]).iterdir()}
    assert names == {
        *("style.json", "style.safetensors", "style.png", "counterpart.png"),
        *("MLmodel", "training.json"),
    }
    plain = cli("styles", "show", "ink@champion", "--home", registered).out
    assert "fingerprint: " + shown["fingerprint"] in plain
    assert "  iterations: 2\n" in plain


def test_metrics_history_has_every_iteration(registered: Path) -> None:
    registry = Registry(Home(registered))
    for version, iterations in ((1, 2), (2, 3)):
        run = registry.get("oil", str(version)).run_id
        for name in LOSS_NAMES:
            history = registry.client.get_metric_history(run, name)
            assert [m.step for m in history] == list(range(1, iterations + 1))


# Stylizing


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four good photos, one of them in a sub-folder, and three bad ones."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deep" / "er").mkdir(parents=True)
    picture(200, (50, 40)).save(folder / "tall.png")
    picture(201, (20, 30)).save(folder / "small.webp", lossless=True)
    picture(202, (64, 64)).save(folder / "deep" / "er" / "x.jpg")
    picture(203).convert("L").save(folder / "grey.gif")
    truncated_jpeg(folder / "cut.jpg")
    (folder / "words.jpg").write_text("this is no picture, it only says so")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    return folder


@pytest.fixture(scope="module")
def stylized(
    registered: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Ran, Path]:
    output = tmp_path_factory.mktemp("stylized")
    ran = cli(
        *("stylize", "--styles", "oil:1,ink", "--input", photos, "--output", output),
        *("--home", registered, "--workers", "1", "--json", "--mix", "strength=0.5"),
    )
    return ran, output


def test_stylize_writes_every_good_photo_in_every_style(stylized: tuple[Ran, Path]) -> None:
    ran, output = stylized
    assert ran.code == 1
    document = ran.document
    assert (document["photos"], document["images"]) == (7, 8)
    assert document["styles"] == ["oil:1", "ink:1"]
    written = {p.relative_to(output).as_posix() for p in output.rglob("*.png")}
    sizes = {"tall": (50, 40), "small": (20, 30), "deep/er/x": (64, 64), "grey": (40, 40)}
    assert written == {f"{style}/{name}.png" for style in ("oil", "ink") for name in sizes}
    for name, size in sizes.items():
        with Image.open(output / "oil" / f"{name}.png") as image:
            assert (image.size, image.mode) == (size, "RGB")
    assert (output / "oil/tall.png").read_bytes() != (output / "ink/tall.png").read_bytes()


def test_stylize_reports_every_bad_photo(stylized: tuple[Ran, Path], photos: Path) -> None:
    ran, output = stylized
    rows = pq.read_table(output / "errors.parquet").to_pylist()
    reasons = {Path(r["path"]).relative_to(photos.resolve()).as_posix(): r["reason"] for r in rows}
    assert reasons["cut.jpg"] == "the JPEG data is truncated"
    assert reasons["words.jpg"].startswith("not an image; ")
    assert reasons["dot.png"] == "1x1 pixels; at least 8x8 are needed"
    assert len(rows) == 6  # of two styles each
    assert {r["stage"] for r in rows} == {"decode"}
    assert ran.document["errors"] == rows
    summary = json.loads((output / "summary.json").read_text())
    assert summary == ran.document


def test_stylized_images_say_where_they_come_from(
    stylized: tuple[Ran, Path], registered: Path
) -> None:
    _, output = stylized
    picture = output / "oil" / "deep" / "er" / "x.png"
    told = cli("inspect", picture, "--json").document["provenance"]
    assert [s["reference"] for s in told["styles"]] == ["oil:1"]
    base = cli("base", "info", "--home", registered, "--json").document
    assert told["base"] == base["fingerprint"]
    assert [s["style"] for s in told["mix"]["styles"]] == ["oil"]
    assert told["mix"]["strength"] == 0.5


def test_stylize_of_one_good_photo_is_all_done(
    registered: Path, photos: Path, tmp_path: Path
) -> None:
    # Of an earlier run; this one has no error.
    (tmp_path / "errors.parquet").write_bytes(b"")
    ran = cli(
        *("stylize", "--styles", "ink", "--input", photos / "tall.png", "--output", tmp_path),
        *("--home", registered),
    )
    assert ran.code == 0
    assert ran.out == f"1 image(s) in {tmp_path}\n"
    assert not (tmp_path / "errors.parquet").exists()
    assert (tmp_path / "ink" / "tall.png").is_file()


# Mistakes: exit code 2; the error names the option or field, and the nearest valid names


# Options, and the fields of the problems.
TRAIN_PROBLEMS = [
    (["--preset", "defalt"], ["--preset"]),
    (["--slots", "0", "--retries", "-1"], ["--slots", "--retries"]),
    (["--set", "iteration=2"], ["iteration"]),
    (["--set", "iterations=0"], ["iterations"]),
    (["--set", "iterations=two", "--set", "spacing=trailin"], ["iterations", "spacing"]),
    (["--set", "lr_unet=NaN"], ["lr_unet"]),
]
# Options, and what the error says.
TRAIN_MISTAKES = [
    (["--base", "tinny"], "unknown base 'tinny': there are tiny, portraits64 (nearest: tiny)"),
    (["--set", "decode_steps=600"], "a schedule of 600 steps is not possible"),
    (["--set", "iterations"], "--set 'iterations': write NAME=VALUE"),
    (["--set", "preset=fast"], "'preset' is no setting; choose one for the run (--preset)"),
    (["--previews", "nowhere"], "nowhere: no such folder"),
]


def assert_problems(ran: Ran, fields: list[str]) -> None:
    assert ran.code == 2
    assert sorted(p["field"] for p in ran.document["problems"]) == sorted(fields)
    lines = ran.err.splitlines()
    assert len(lines) == len(fields)
    assert all(line.startswith("error: ") for line in lines)


@pytest.mark.parametrize(("options", "fields"), TRAIN_PROBLEMS)
def test_train_problems(
    workplace: Path, style_folder: Path, options: list[str], fields: list[str]
) -> None:
    ran = cli("train", style_folder, "--home", workplace, "--json", *options)
    assert_problems(ran, fields)


@pytest.mark.parametrize(("options", "says"), TRAIN_MISTAKES)
def test_train_mistakes(workplace: Path, style_folder: Path, options: list[str], says: str) -> None:
    ran = cli("train", style_folder, "--home", workplace, "--json", *options)
    assert ran.code == 2
    assert says in ran.error
    assert ran.document["error"] == ran.error


STYLIZE_PROBLEMS = [
    (["--fit", "crob", "--quality", "900", "--workers", "0"], ["--fit", "--quality", "--workers"]),
    (["--mix", "strenght=1", "--mix", "strength=9"], ["strength", "strenght"]),
]
STYLIZE_MISTAKES = [
    (["--styles", "oill"], "unknown style 'oill' (nearest: oil)"),
    (["--styles", "oil,zzz"], "unknown style 'zzz' (registered: ink, oil)"),
    (["--styles", "oil:7"], "style 'oil' has no version '7': there are 2 (champion), 1"),
    (["--styles", "oil@best"], "style 'oil' has no version 'best': there are 2 (champion), 1"),
    (["--styles", "oil,oil:1"], "the same style is named twice"),
    (["--styles", ","], "no style is named"),
    (["--styles", "o'il"], 'unknown style "o\'il"'),
    (["--mix", "strength"], "--mix 'strength': write NAME=VALUE"),
    (["--mix", "level_weights=[1]"], "level_weights has 1 values; this base"),
    (["--mix", "text_edit=smile"], "unknown text edit 'smile'"),
    (["--input", "nowhere"], "nowhere: no such folder, photo, list"),
]


def stylize(registered: Path, photos: Path, output: Path, options: list[str]) -> Ran:
    return cli(
        *("stylize", "--home", registered, "--styles", "oil", "--input", photos),
        *("--output", output, "--json", *options),
    )


@pytest.mark.parametrize(("options", "fields"), STYLIZE_PROBLEMS)
def test_stylize_problems(
    registered: Path, photos: Path, tmp_path: Path, options: list[str], fields: list[str]
) -> None:
    assert_problems(stylize(registered, photos, tmp_path / "out", options), fields)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("options", "says"), STYLIZE_MISTAKES)
def test_stylize_mistakes(
    registered: Path, photos: Path, tmp_path: Path, options: list[str], says: str
) -> None:
    ran = stylize(registered, photos, tmp_path / "out", options)
    assert ran.code == 2
    assert says in ran.error
    assert ran.document["error"] == ran.error
    assert not (tmp_path / "out").exists()


def test_unknown_style_where_none_is_registered(registered: Path, tmp_path: Path) -> None:
    # Another home of the same process has it.
    assert cli("styles", "show", "oil", "--home", registered).code == 0
    ran = cli("styles", "show", "oil", "--home", tmp_path)
    assert ran.code == 2
    assert ran.out == ""
    assert "unknown style 'oil': none is registered" in ran.error


def test_what_libraries_print_does_not_reach_standard_output() -> None:
    code = (
        "import os\n"
        "from factory.cli import output\n"
        "with output.results_only_on_stdout():\n"
        "    print('a notice')\n"
        "    os.write(1, b'a notice of C code\\n')\n"
        "    output.print_result('{}')\n"
    )
    # As in a pipe: what Python prints waits in its buffer.
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=buffered)
    assert ran.stdout == "{}\n"
    assert sorted(ran.stderr.splitlines()) == ["a notice", "a notice of C code"]

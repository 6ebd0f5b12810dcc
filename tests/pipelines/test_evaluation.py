"""Evaluations on a real Ray: their rows, resuming, sweeps, the registry and the gate."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import load_file

import pipelines
from factory.core.home import Home
from factory.registry import CANDIDATE, CHAMPION, GATE_TAG, Registry
from factory.registry.versions import read_evaluation
from osasis.bundles.base import load_base
from osasis.errors import UserError
from osasis.evaluation.choose import choose_metrics
from osasis.evaluation.metric import Pair, Picture
from osasis.evaluation.weights import weights_digest
from osasis.images.tensors import load_square
from osasis.storage import save_tensors
from pipelines.density import RankPhotos, RankSpec
from pipelines.evaluation_result import ALL
from pipelines.measure_pictures import MeasurePictures, MeasureSpec
from pipelines.measurements import MERGED, ROWS
from tests.pipelines.conftest import register
from tests.tiny import SIZE, make_perceptual_file, picture, truncated_jpeg

QUICK = ("lpips", "style", "tone_slope")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    for i in range(3):
        picture(500 + i, (40, 40)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def shop(fresh_home: Callable[[], Path], local_ray: None) -> Home:
    """A home with two styles, whose registry the tests change."""
    home = Home(fresh_home())
    register(home, "oil", seed=1)
    register(home, "ink", seed=5)
    return home


def run(home: Home, photos: Path, output: Path, **options: Any) -> Any:
    options = {"styles": ["oil", "ink"], "metrics": QUICK, "workers": 1, **options}
    return pipelines.evaluate(photos=photos, output=output, home=home, **options)


@pytest.fixture(scope="module")
def evaluated(shop: Home, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    output = tmp_path_factory.mktemp("evaluated")
    return run(shop, faces, output, baselines=["reinhard"])


def test_values_are_those_of_the_metrics_on_the_pictures(
    evaluated: Any, shop: Home, faces: Path
) -> None:
    assert evaluated.complete
    assert list(evaluated.results) == ["oil", "ink", ALL]
    base = load_base(shop.bases / "tiny")
    metrics = {m.name: m for m in choose_metrics(base, QUICK).metrics}
    images = Path(evaluated.output) / "images"
    style = Path(Registry(shop).get("oil").folder())
    for variant in ("ours", "reinhard"):
        pairs = [
            Pair(*(Picture(load_square(p, SIZE)) for p in paths))
            for name in ("0", "1", "2")
            for paths in [
                (
                    faces / f"{name}.png",
                    images / "oil" / variant / f"{name}.png",
                    style / "style.png",
                    style / "counterpart.png",
                )
            ]
        ]
        for name, metric in metrics.items():
            found = evaluated.results["oil"][variant][name]
            assert found.value == pytest.approx(metric.of(pairs), rel=1e-4)
            assert (found.count, found.missing) == (3, 0)
    oil, ink, both = (evaluated.results[s]["ours"]["lpips"] for s in ("oil", "ink", ALL))
    assert both.value == pytest.approx((oil.value + ink.value) / 2)
    assert both.low <= both.value <= both.high
    assert both.count == 6


def test_files_of_an_evaluation(evaluated: Any) -> None:
    output = Path(evaluated.output)
    document = json.loads((output / "evaluation.json").read_text())
    assert document == json.loads(json.dumps(evaluated.to_dict()))
    assert [m["name"] for m in document["metrics"]] == list(QUICK)
    assert all(m["backbone"] and m["source"] for m in document["metrics"])
    with Image.open(output / "evaluation.png") as grid:
        assert grid.width > 4 * 128 and grid.height > 6 * 128
    table = evaluated.table()
    assert table.splitlines()[0].split() == ["oil:1", "better", "ours", "reinhard"]
    assert "all styles" in table


def test_a_resumed_evaluation_measures_the_missing_rows_only(
    evaluated: Any, shop: Home, faces: Path
) -> None:
    output = Path(evaluated.output)
    table = pq.read_table(output / MERGED)
    assert table.num_rows == 3 * 2 * 2 * len(QUICK)
    # As after a kill: a part of the rows, in files of batches. A changed value shows that a row
    # is kept instead of measured again.
    kept = table.slice(0, 20).to_pylist()
    kept[0]["values"] = [7.0]
    (output / ROWS).mkdir(exist_ok=True)
    pq.write_table(type(table).from_pylist(kept[:9], table.schema), output / ROWS / "a.parquet")
    # Files of older versions lack the column of weights.
    older = type(table).from_pylist(kept[9:], table.schema).drop_columns(["weights"])
    pq.write_table(older, output / ROWS / "b.parquet")
    (output / MERGED).unlink()
    lines: list[str] = []
    again = run(shop, faces, output, baselines=["reinhard"], report=lines.append)
    texts = [json.loads(line)["text"] for line in lines]
    assert "6 of 12 picture(s) are measured" in texts
    rows = pq.read_table(output / MERGED).to_pylist()
    assert len(rows) == table.num_rows
    assert sum(r["values"] == [7.0] for r in rows) == 1
    assert [r for r in rows if r["values"] != [7.0]] == table.to_pylist()[1:]
    assert again.results["ink"]["ours"]["style"] == evaluated.results["ink"]["ours"]["style"]
    assert not list((output / ROWS).iterdir())


@pytest.mark.slow
def test_other_weights_measure_and_make_again_what_depends_on_them(
    shop: Home, faces: Path, tmp_path: Path
) -> None:
    weights, output = tmp_path / "weights", tmp_path / "out"
    weights.mkdir()
    path = make_perceptual_file(weights / "lpips_vgg.safetensors", "vgg")
    options: dict[str, Any] = {
        "styles": ["oil"], "metrics": ["structure", "lpips"], "baselines": ["gatys"],
        "weights": weights, "limit": 1,
    }  # fmt: skip
    first = run(shop, faces, output, **options).results["oil"]
    save_tensors(path, {k: 1.5 * v for k, v in load_file(path).items()})
    second = run(shop, faces, output, **options).results["oil"]
    assert first["ours"]["structure"] != second["ours"]["structure"]
    assert first["ours"]["lpips"] == second["ours"]["lpips"]  # of the base's own net
    assert first["gatys"]["lpips"] != second["gatys"]["lpips"]
    made = sorted((output / "images" / "oil").glob("gatys-*/0.png"))
    assert len(made) == 2 and made[0].read_bytes() != made[1].read_bytes()
    # ours: one row of lpips, two of structure; gatys: two of each.
    assert pq.read_table(output / MERGED).num_rows == 3 + 4


def test_a_node_with_other_weights_is_refused(shop: Home, tmp_path: Path) -> None:
    make_perceptual_file(tmp_path / "lpips_alex.safetensors", "alex")
    spec = MeasureSpec(
        folder=str(tmp_path), base=str(shop.bases / "tiny"), styles={}, metrics=("lpips", "style"),
        baselines=(), weights=str(tmp_path), measured_by={"lpips": "1", "style": "2"}, made_by={},
        fit="crop", square=SIZE, seed=0,
    )  # fmt: skip
    right = weights_digest(tmp_path, "lpips")
    MeasurePictures(spec.replace(measured_by={"lpips": right, "style": right}), "cpu")
    with pytest.raises(UserError, match=f"^{tmp_path} on .* has other weights for lpips, style"):
        MeasurePictures(spec, "cpu")
    ranks = RankSpec.for_evaluation(spec)
    RankPhotos(ranks, "cpu")
    with pytest.raises(UserError, match="other weights for lpips than"):
        RankPhotos(ranks.replace(digest=""), "cpu")


@pytest.mark.slow
def test_a_sweep_has_a_column_a_value_and_is_not_logged(
    shop: Home, faces: Path, tmp_path: Path
) -> None:
    found = run(
        shop, faces, tmp_path, styles=["oil"], sweeps=[("strength", [0, 1])], metrics=["lpips"]
    )
    assert found.variants == ("strength=0", "strength=1")
    weak, full = (found.results["oil"][v]["lpips"].value for v in found.variants)
    assert weak < full
    assert found.registered == ()


@pytest.mark.slow
def test_unreadable_photos_are_reported_and_the_others_measured(
    shop: Home, faces: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    picture(1).save(folder / "good.png")
    truncated_jpeg(folder / "bad.jpg")
    found = run(shop, folder, tmp_path / "out", styles=["oil"], metrics=["lpips"],
                baselines=["reinhard"])  # fmt: skip
    assert not found.complete
    assert [Path(e["path"]).name for e in found.errors] == ["bad.jpg"]
    assert list(found.failed.values()) == [1]  # the baseline of the same photo
    assert found.results["oil"]["ours"]["lpips"].count == 1


@pytest.mark.slow
def test_results_are_logged_and_a_gate_refuses_a_spoilt_style(
    shop: Home, faces: Path, tmp_path: Path
) -> None:
    registry = Registry(shop)
    # Tiny random weights make any stylization bad; a style of strength 0 in `good` would not be.
    for name in ("good", "spoilt"):
        register(shop, name, seed=9)
        version = registry.get(name)
        registry.client.delete_registered_model_alias(name, CHAMPION)
        registry.client.set_registered_model_alias(name, CANDIDATE, str(version.version))
    value = run(
        shop, faces, tmp_path / "a", styles=["good@candidate"], metrics=["lpips"]
    ).results["good"]["ours"]["lpips"].value  # fmt: skip
    logged = registry.client.get_run(registry.get("good", CANDIDATE).run_id).data.metrics
    assert logged["evaluate.lpips"] == pytest.approx(value)
    assert read_evaluation(registry.get("good", CANDIDATE)) == {"evaluate.lpips": value}
    met = run(
        shop, faces, tmp_path / "a", styles=["good@candidate"], metrics=["lpips"],
        gate=[f"evaluate.lpips<={value + 0.01}"],
    )  # fmt: skip
    assert met.complete and met.gate == {"good": ()}
    assert registry.get("good").aliases == (CHAMPION,)
    missed = run(
        shop, faces, tmp_path / "b", styles=["spoilt@candidate"], metrics=["lpips"],
        gate=[f"evaluate.lpips<={value - 0.01}"],
    )  # fmt: skip
    assert not missed.complete
    version = registry.get("spoilt", CANDIDATE)
    assert version.aliases == (CANDIDATE,)
    assert version.tags[GATE_TAG].startswith("evaluate.lpips is")


def test_mistakes_are_refused_before_anything_runs(shop: Home, faces: Path, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"metrics": ["lpip"]}, r"unknown metric 'lpip' \(nearest: lpips"),
        ({"baselines": ["gaty"]}, r"unknown baseline 'gaty'"),
        ({"baselines": ["gatys"]}, r"gatys needs lpips_vgg\.safetensors"),
        ({"weights": tmp_path / "none"}, "no such folder"),
        ({"gate": ["evaluate.lpips<1"], "mix": {"strength": 0.5}}, "leave out --mix"),
        ({"styles": []}, "no style is named"),
    ]
    for options, message in cases:
        with pytest.raises(UserError, match=message):
            run(shop, faces, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_metric_that_is_asked_for_and_cannot_be_measured_is_an_error(
    shop: Home, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "dlib" else real(n))
    with pytest.raises(UserError, match=r"identity: .*pip install 'style-factory\[faces\]'"):
        run(shop, faces, tmp_path, styles=["oil"], metrics=["identity", "lpips"])


@pytest.mark.slow
def test_without_the_extra_identity_is_left_out_with_the_reason(
    shop: Home, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "dlib" else real(n))
    lines: list[str] = []
    found = run(shop, faces, tmp_path, styles=["oil"], metrics=(), report=lines.append)
    assert "pip install 'style-factory[faces]'" in found.unavailable["identity"]
    texts = [json.loads(line)["text"] for line in lines]
    assert sum(t.startswith("identity is not measured") for t in texts) == 1
    assert np.isfinite(found.results["oil"]["ours"]["lpips"].value)

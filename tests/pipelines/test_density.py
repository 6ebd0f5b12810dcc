"""Ranking of photos by density, with a real Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

import pipelines
from factory.core.home import Home
from factory.core.stores import open_store
from osasis.bundles.base import load_base
from osasis.errors import UserError
from osasis.images.tensors import load_square
from osasis.pretraining.evaluate_base import stochastic_reconstructions
from osasis.seeds import derived_seed
from pipelines.density import FOLDER, RANKS, STEPS, read_ranks
from pipelines.evaluation_result import HIGH, LOW, EvaluationResult
from pipelines.manifest import parquet_bytes
from tests.pipelines.conftest import register
from tests.tiny import SIZE, picture


@pytest.mark.slow
@pytest.mark.ci
def test_photos_of_lowest_and_highest_density_are_evaluated(
    fresh_home: Callable[[], Path], local_ray: None, tmp_path: Path
) -> None:
    home = Home(fresh_home())
    register(home, "oil", seed=1)
    photos, output = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for i in range(5):
        picture(500 + i, (40, 40)).save(photos / f"{i}.png")
    base = load_base(home.bases / "tiny")
    expected = {}
    for path in sorted(photos.iterdir()):
        photo = load_square(path, SIZE)[None]
        seed = derived_seed(0, path.name)
        made = stochastic_reconstructions(base, photo, steps=STEPS, seed=seed)
        expected[path.name.encode()] = base.perceptual(photo, made).item()
    lines: list[str] = []

    def run(count: int) -> EvaluationResult:
        return pipelines.evaluate(
            ["oil"], photos, output, home=home, metrics=["lpips"], workers=1, density=count,
            report=lines.append,
        )  # fmt: skip

    found = run(2)
    (folder,) = (output / FOLDER).iterdir()
    ranks = read_ranks(open_store(folder))
    assert ranks == {name: pytest.approx(value, rel=1e-3) for name, value in expected.items()}
    order = sorted(expected, key=lambda name: expected[name])
    written = {p.name.encode() for p in (output / "images" / "oil" / "ours").iterdir()}
    assert written == {*order[:2], *order[-2:]}
    assert list(found.results) == ["oil", LOW, HIGH]
    low, high, both = (found.results[g]["ours"]["lpips"] for g in (LOW, HIGH, "oil"))
    assert (low.count, high.count, both.count) == (2, 2, 4)
    figures = found.to_dict()["published"]
    assert "published at 256 px, here at 32 px" in figures["differences"][0]
    assert [r["metric"] for r in figures["rows"][:3]] == ["artfid", "identity", "structure"]
    assert both.value == pytest.approx((low.value + high.value) / 2)
    lines.clear()
    again = run(2)
    assert again.results == found.results
    assert not any("ranking" in json.loads(line)["text"] for line in lines)
    with pytest.raises(UserError, match="--density 3 needs 6 photos, but 5 can be ranked"):
        run(3)


def test_a_photo_whose_ranking_failed_is_ranked_again(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    rows = [{"key": b"a", "distance": None, "reason": "no answer"},
            {"key": b"b", "distance": 0.5, "reason": ""}]  # fmt: skip
    for name, part in (("0.parquet", rows), ("1.parquet", [{**rows[1], "key": b"c"}])):
        store.write(name, parquet_bytes(pa.Table.from_pylist(part, schema=RANKS)))
    assert read_ranks(store) == {b"b": 0.5, b"c": 0.5}

"""`styles compact`: a low-rank version of a registered style."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from factory.core.home import Home
from factory.registry import Registry
from osasis.bundles.base import read_base_info
from osasis.bundles.style import load_style
from osasis.networks.adapters import LowRank, dense
from tests.factory.conftest import cli
from tests.tiny import write_style


def test_compact(fresh_home: Callable[[], Path]) -> None:
    home = Home(fresh_home())
    write_style(home.path / "oil", home.bases / "tiny", "oil")
    Registry(home).register(
        "oil",
        home.path / "oil",
        fingerprint="f1",
        base=read_base_info(home.bases / "tiny")["fingerprint"],
        params={},
        history=[],
        metrics={"lpips": 0.5},
        tags={"base_name": "tiny", "licence": "CC0"},
    )
    made = cli("styles", "compact", "oil", "--rank", "2", "--home", home.path, "--json").document
    assert (made["version"], made["aliases"], made["licence"]) == (2, ["candidate"], "CC0")
    full, small = (load_style(Registry(home).resolve(r).folder()) for r in ("oil:1", "oil:2"))
    ranks = [c.rank for c in small.delta.values() if isinstance(c, LowRank)]
    assert set(ranks) == {2}
    lost = sum((dense(c) - full.delta[k]).pow(2).sum() for k, c in small.delta.items())
    error = float(lost / sum(dense(c).pow(2).sum() for c in full.delta.values()))
    assert made["rank"] == 2 and abs(made["error"] - error) < 1e-4 and error > 0.1
    # The same call again makes no new version; a low-rank style is refused.
    again = cli("styles", "compact", "oil", "--rank", "2", "--home", home.path, "--json").document
    assert again["version"] == 2
    ran = cli("styles", "compact", "oil:2", "--home", home.path)
    assert ran.code == 2 and "oil:2 is of low rank already" in ran.error

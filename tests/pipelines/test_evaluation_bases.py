"""One evaluation of styles of two methods."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from diffstyler.settings import make_settings
from diffstyler.style import Style, save_style
from factory.core.home import Home
from factory.methods import load_base
from factory.registry import Registry
from osasis.errors import UserError
from pipelines.evaluation_bases import Comparison, evaluate_bases
from tests.diffstyler.tiny_base import FEW, write_base
from tests.diffstyler.tiny_sd import picture as smooth
from tests.diffstyler.tiny_sd import random_adapter
from tests.factory.conftest import cli
from tests.pipelines.conftest import register
from tests.tiny import picture

# The tiny base of OSASIS has a perceptual net of its own.
QUICK = ("lpips", "tone_slope")


@pytest.fixture(scope="module")
def both(fresh_home: Callable[[], Path]) -> Home:
    """A home with style `oil` of OSASIS and style `print` of DiffStyler."""
    torch.set_num_threads(1)
    home = Home(fresh_home())
    register(home, "oil", seed=1)
    base = load_base(write_base(home.bases / "tiny-sd"))
    adapter = random_adapter(base.networks, 1)  # type: ignore[attr-defined]
    info = {"base": base.fingerprint, "base_name": "tiny-sd", "source_image": "print.png"}
    style = Style("print", adapter, "painting of <sss>", make_settings(**FEW), info)
    save_style(home.path / "made" / "print", style, smooth(7))
    Registry(home).register(
        "print", home.path / "made" / "print", fingerprint="print", base=base.fingerprint,
        params={}, history=[], metrics={}, tags={},
    )  # fmt: skip
    return home


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(2):
        picture(500 + i).save(folder / f"{i}.png")
    return folder


@pytest.mark.slow
def test_styles_of_two_methods_are_compared(
    both: Home, photos: Path, local_ray: None, tmp_path: Path
) -> None:
    call = ("evaluate", "--styles", "oil,print", "--photos", photos, "--home", both.path)
    found = cli(*call, "--metrics", ",".join(QUICK), "--output", tmp_path, "--json")
    assert found.code == 0, found.err
    document = json.loads((tmp_path / "evaluation.json").read_text())
    assert document == found.document
    assert {n: list(d["styles"].values()) for n, d in document["bases"].items()} == {
        "tiny": ["oil:1"],
        "tiny-sd": ["print:1"],
    }
    for name in document["bases"]:
        assert (tmp_path / name / "evaluation.png").exists()

    same = evaluate_bases(["oil", "print"], photos, tmp_path, home=both, metrics=QUICK)
    assert isinstance(same, Comparison) and same.complete
    head, lpips, slope = (
        [c.strip() for c in re.split("  +", line.strip())] for line in same.table().splitlines()
    )
    assert head == ["all styles", "better", "tiny, ours", "tiny-sd, ours"]
    assert lpips == ["lpips", "not compared: measured with different networks"]
    expected = [
        document["bases"][base]["results"][style]["ours"]["tone_slope"]["value"]
        for base, style in (("tiny", "oil"), ("tiny-sd", "print"))
    ]
    assert [float(c.split()[0]) for c in slope[2:]] == pytest.approx(expected, rel=5e-3, abs=5e-4)


def test_an_unknown_style_is_named(both: Home, photos: Path) -> None:
    with pytest.raises(UserError, match="'nobody'"):
        evaluate_bases(["oil", "nobody"], photos, home=both)

"""The estimate of a training run: from registered styles, from a probe, or unknown."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from factory.core.home import Home
from factory.methods.interface import TrainingInputs
from factory.registry import Registry
from factory.training.estimate import measure
from factory.training.run import train
from osasis.bundles.base import load_base
from osasis.bundles.files import STYLE_JSON
from tests.factory.conftest import Shop
from tests.tiny import FEW, picture, write_style


@pytest.mark.slow
def test_registered_styles_with_the_same_settings_tell_the_time(
    fresh_home: Callable[[], Path], local_ray: None, tmp_path: Path
) -> None:
    home = Home(fresh_home())
    images = tmp_path / "styles"
    images.mkdir()
    for i, name in enumerate(("ink", "oil")):
        picture(100 + i).save(images / f"{name}.png")

    def estimate() -> dict[str, object]:
        return train(
            images, home=home, preset="default", overrides=FEW, slots=2, estimate=True
        ).estimate

    # Nothing is known, and a probe would need a content bank.
    unknown = estimate()
    assert (unknown["styles"], unknown["to_train"], unknown["registered"]) == (2, 2, 0)
    assert (unknown["seconds"], unknown["measured"]) == (None, "")
    assert "content bank is not made yet; train one style first" in str(unknown["note"])
    base = home.bases / "tiny"
    for seconds in (30.0, 50.0, 31.0):
        folder = tmp_path / f"made {seconds}"
        write_style(folder, base, "chalk")
        info = json.loads((folder / STYLE_JSON).read_text())
        (folder / STYLE_JSON).write_text(json.dumps({**info, "train_seconds": seconds}))
        Registry(home).register(
            "chalk", folder, fingerprint=f"chalk-{seconds}", base=load_base(base).fingerprint,
            params={}, history=[], metrics={}, tags={"base_name": "tiny"},
        )  # fmt: skip
    found = estimate()
    assert (found["measured"], found["note"], found["slots"]) == ("history", "", 2)
    assert found["seconds"] == 31.0  # the median, for two styles on two slots
    bundle = sum(p.stat().st_size for p in (tmp_path / "made 30.0").iterdir())
    assert abs(int(str(found["bytes"])) - 2 * bundle) < 0.1 * bundle
    assert list(home.jobs.glob("*")) == []


def test_a_probe_scales_a_few_iterations(shop: Shop, tmp_path: Path) -> None:
    picture(1).save(tmp_path / "style.png")
    few = TrainingInputs(
        tmp_path / "style.png", "style.png", None, shop.settings.replace(iterations=4), tmp_path,
        shop.bank, torch.zeros(1, 3, 32, 32),
    )  # fmt: skip
    many = replace(few, settings=shop.settings.replace(iterations=4000))
    base, image = str(shop.base), str(few.image)
    (short, size), (long, _) = (measure(base, image, inputs, "cpu") for inputs in (few, many))
    assert 0 < short < 30
    assert long > 50 * short
    unet = sum(p.numel() for p in load_base(shop.base).diffae.unet.parameters())
    assert size > 2 * unet  # bytes of the style's difference, in 16 or 32 bits
    assert sorted(p.name for p in tmp_path.iterdir()) == ["style.png"]

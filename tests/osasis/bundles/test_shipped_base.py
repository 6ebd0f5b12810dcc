"""The shipped base: file sizes, inversion, reconstruction and samples."""

from __future__ import annotations

import pytest
import torch

from osasis.bundles.base import Base, load_base
from osasis.bundles.files import SHIPPED, shipped_bases
from osasis.contents import HELD_OUT
from osasis.images.tensors import from_uint8
from osasis.pretraining.evaluate_base import draw_samples, evaluate_base
from tests.conftest import ROOT

EXAMPLES = ROOT / "factory" / "examples"


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(shipped_bases()["portraits64"])


def test_files_stay_small() -> None:
    files = [p for p in SHIPPED.rglob("*") if p.is_file()]
    files += [p for p in EXAMPLES.rglob("*") if p.is_file()]
    sizes = [p.stat().st_size for p in files]
    assert max(sizes) < 10_000_000
    assert sum(sizes) < 36_000_000  # 8 MB of them are the style predictor
    assert len(list((EXAMPLES / "photos").glob("*.png"))) == 12
    assert len(list((EXAMPLES / "styles").glob("*.png"))) == 6


@pytest.mark.slow
@pytest.mark.ci
def test_it_inverts_and_reconstructs_photos(base: Base) -> None:
    assert base.photos is not None and len(base.photos) > HELD_OUT
    photos = from_uint8(base.photos[-2:])
    found, _ = evaluate_base(base, photos, steps=100, t0s=(0.5,))
    assert found.inversion_mse["0.5"] < 0.001
    # z must preserve the person's identity.
    assert found.stochastic_lpips < 0.35


def test_samples_have_the_colours_of_photos(base: Base) -> None:
    samples = draw_samples(base, 8, steps=10, seed=5)
    assert base.photos is not None
    photos = from_uint8(base.photos)
    gap = (samples.mean(dim=(0, 2, 3)) - photos.mean(dim=(0, 2, 3))).abs()
    assert float(gap.max()) < 0.25
    # Samples must have contrast without saturating.
    assert 0.25 < float(samples.std()) < 0.75
    assert not bool(torch.isnan(samples).any())

"""Training of a style predictor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from osasis.bundles.base import Base
from osasis.contents import ContentBank
from osasis.images.tensors import to_uint8
from osasis.looks import LOOKS
from osasis.networks.adapters import dense
from osasis.pretraining.budgeted_training import TrainingBudget, train_within_budget
from osasis.pretraining.predictor_styles import (
    TrainingStyles,
    make_training_styles,
    painted_style,
)
from osasis.pretraining.train_predictor import (
    PredictorTrainer,
    low_rank,
    predictor_settings,
)
from tests.tiny import SIZE, build_bank

Images = Callable[..., Tensor]


@pytest.fixture(scope="module")
def bank(tiny_base: Base) -> ContentBank:
    return build_bank(tiny_base, predictor_settings())


@pytest.fixture(scope="module")
def styles(
    tiny_base: Base, bank: ContentBank, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> TrainingStyles:
    photos = to_uint8(images(4, seed=4, size=64))
    folder = tmp_path_factory.mktemp("styles")
    made = make_training_styles(tiny_base, photos, bank, predictor_settings(), 3, 0, folder)
    again = make_training_styles(tiny_base, photos[:0], bank, predictor_settings(), 3, 0, folder)
    assert torch.equal(made.style_images, again.style_images)  # read from the shards
    return made


@pytest.fixture
def trainer(tiny_base: Base, styles: TrainingStyles, bank: ContentBank) -> PredictorTrainer:
    return PredictorTrainer(tiny_base, styles, bank, predictor_settings())


def test_painted_styles_depend_on_index_and_seed(images: Images) -> None:
    photos = to_uint8(images(4, seed=4, size=64))
    first = painted_style(photos, 0, SIZE, 0)
    assert first.shape == (3, SIZE, SIZE) and first.abs().max() <= 1
    assert torch.equal(first, painted_style(photos, 0, SIZE, 0))
    assert not torch.equal(first, painted_style(photos, len(LOOKS), SIZE, 0))
    assert not torch.equal(first, painted_style(photos, 0, SIZE, 1))


def test_style_images_and_counterparts_keep_their_names(
    styles: TrainingStyles, images: Images
) -> None:
    photos = to_uint8(images(4, seed=4, size=64))
    style, counterpart = styles.pair(1)
    torch.testing.assert_close(style[0], painted_style(photos, 1, SIZE, 0), atol=0.005, rtol=0)
    assert float((style - counterpart).abs().mean()) > 0.05


def test_losses_fall(tiny_base: Base, styles: TrainingStyles, bank: ContentBank) -> None:
    one = TrainingStyles(styles.style_images[:1], styles.counterparts[:1])
    trainer = PredictorTrainer(tiny_base, one, bank, predictor_settings())
    losses = [trainer.step(5.0)["total"] for _ in range(8)]
    assert sum(losses[-2:]) < 0.8 * sum(losses[:2])


def test_a_resumed_training_equals_an_uninterrupted_one(
    trainer: PredictorTrainer,
    tiny_base: Base,
    styles: TrainingStyles,
    bank: ContentBank,
    tmp_path: Path,
) -> None:
    budget = TrainingBudget(steps=3)
    whole = train_within_budget(trainer, budget, tmp_path / "whole", {})
    state, parts = tmp_path / "parts", []
    for stop in (2, None):
        part = PredictorTrainer(tiny_base, styles, bank, predictor_settings())
        parts = train_within_budget(part, budget, state, {}, stop_after=stop)
    assert parts == whole
    for key, value in part.model.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[key]), key


def test_folding_keeps_the_changes_at_full_rank(trainer: PredictorTrainer) -> None:
    for _ in range(2):
        trainer.step(1.0)
    white = trainer.whitened[1]
    with torch.no_grad():
        before = trainer.model.adapter(white)
        after = trainer.model.folded(64).adapter(white)
        small = trainer.model.folded(1).adapter(white)
    for key, change in before.items():
        torch.testing.assert_close(dense(change), dense(after[key]), atol=1e-6, rtol=1e-4)
    key = "input_blocks.1.0.in_layers.2.weight"
    assert not torch.allclose(dense(before[key]), dense(small[key]), atol=1e-6)


def test_low_rank_of_a_small_matrix_is_filled_with_zeros() -> None:
    value = torch.randn(2, 5)
    factors = low_rank(value, 4)
    assert factors.rank == 4 and factors.shape == value.shape
    torch.testing.assert_close(dense(factors), value)

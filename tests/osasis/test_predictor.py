"""Styles from a base's predictor, as they are and as the start of a training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from osasis.bundles.base import Base, load_base
from osasis.bundles.predictor import save_predictor
from osasis.contents import ContentBank, Contents
from osasis.errors import UserError
from osasis.networks.adapters import dense
from osasis.predictor import predict_style
from osasis.settings import TrainSettings, make_settings
from osasis.train import StyleTrainer
from osasis.validation import InvalidInputError
from tests.tiny import SIZE, random_predictor, with_predictor

Images = Callable[..., Tensor]


@pytest.fixture(scope="module")
def base(tiny_base: Base) -> Base:
    return with_predictor(tiny_base, random_predictor(tiny_base))


def pair(images: Images, seed: int) -> tuple[Tensor, Tensor]:
    return images(1, seed=seed, size=SIZE), images(1, seed=seed + 1, size=SIZE)


def test_a_style_depends_on_its_image(base: Base, images: Images) -> None:
    settings = make_settings("instant")
    a, again, b = (predict_style(base, "s", *pair(images, k), settings) for k in (8, 8, 30))
    assert a.low_rank and a.info == {"base": base.fingerprint, "predictor": "tiny"}
    assert all(torch.equal(dense(a.delta[k]), dense(again.delta[k])) for k in a.delta)
    key = "input_blocks.0.0.weight"
    assert float((dense(a.delta[key]) - dense(b.delta[key])).abs().max()) > 1e-3
    assert torch.equal(a.z_style, base.encode_z(pair(images, 8)[0]))


def test_a_training_starts_from_the_prediction(
    base: Base, images: Images, tiny_contents: Contents, tiny_settings: Callable[..., TrainSettings]
) -> None:
    settings = tiny_settings(start="prediction", iterations=1)
    trainer = StyleTrainer(base, *pair(images, 8), ContentBank(tiny_contents), settings)
    predicted = predict_style(base, "s", *pair(images, 8), settings)
    own = dict(base.diffae.unet.named_parameters())
    for key, change in predicted.delta.items():
        torch.testing.assert_close(trainer.unet.get_parameter(key), own[key] + dense(change))
    untrained = trainer.style("s")
    assert untrained.low_rank and untrained.delta.keys() == predicted.delta.keys()
    trainer.step()
    trained = trainer.style("s")
    key = "input_blocks.0.0.weight"
    moved = float((dense(trained.delta[key]) - dense(predicted.delta[key])).abs().max())
    assert 0 < moved <= 1.01 * settings.lr_unet * trainer.objective.denoising_steps
    assert trained.info["predictor"] == "tiny"


def test_a_base_without_a_predictor_says_how_to_get_one(tiny_base: Base, images: Images) -> None:
    with pytest.raises(UserError, match="base train-predictor"):
        predict_style(tiny_base, "s", *pair(images, 8), make_settings("instant"))


def test_settings_of_a_start_from_the_base() -> None:
    with pytest.raises(InvalidInputError) as found:
        make_settings("fast", iterations=0)
    assert [(p.field, p.value) for p in found.value.problems] == [("iterations", 0)]
    with pytest.raises(InvalidInputError) as found:
        make_settings("instant", adapter="lora")
    assert [(p.field, p.allowed) for p in found.value.problems] == [("adapter", "full")]


def test_a_bundle_keeps_the_predictor(tiny_folder: Path, tmp_path: Path, images: Images) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    for path in tiny_folder.iterdir():
        (folder / path.name).symlink_to(path)
    bare = load_base(folder)
    assert bare.predictor is None and bare.predictor_fingerprint == ""
    predictor = random_predictor(bare)
    info = save_predictor(folder, predictor, bare.fingerprint, {"steps": 3})
    loaded = load_base(folder)
    assert loaded.fingerprint == bare.fingerprint
    assert loaded.predictor_fingerprint == info["weights_sha256"][:16]
    memory = with_predictor(bare, predictor)
    a, b = (
        predict_style(x, "s", *pair(images, 8), make_settings("instant")) for x in (loaded, memory)
    )
    for key in a.delta:  # float16 in the file
        torch.testing.assert_close(dense(a.delta[key]), dense(b.delta[key]), rtol=2e-2, atol=2e-3)


def test_a_predictor_of_another_base_or_a_damaged_one(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    for path in tiny_folder.iterdir():
        (folder / path.name).symlink_to(path)
    base = load_base(folder)
    save_predictor(folder, random_predictor(base), "other", {})
    with pytest.raises(UserError, match="of another base"):
        load_base(folder)
    save_predictor(folder, random_predictor(base), base.fingerprint, {})
    weights = folder / "predictor.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(UserError, match="SHA-256 differs"):
        _ = load_base(folder).predictor

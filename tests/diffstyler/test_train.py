from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from diffstyler.base import Base, load_base
from diffstyler.settings import make_train_settings
from diffstyler.train import AdapterTrainer, style_tensor
from osasis.checkpoints import load_checkpoint, save_checkpoint
from osasis.errors import DivergedError, UserError
from tests.diffstyler.tiny_sd import SIZE, picture, write_pipeline


def trainer(base: Base, **fields: Any) -> AdapterTrainer:
    few = {"rank": 2, "lr": 1e-2, "precision": "float32", "content": "deer"}
    settings = make_train_settings(**few | fields)
    return AdapterTrainer(base, picture(0, SIZE, SIZE + 16), settings)


@pytest.mark.parametrize("augment", [False, True])
def test_a_resumed_training_equals_an_uninterrupted_one(
    base: Base, tmp_path: Path, augment: bool
) -> None:
    fields = {"crop": augment, "flip": augment, "batch_size": 2}
    whole = trainer(base, **fields)
    for _ in range(6):
        whole.step()
    first = trainer(base, **fields)
    for _ in range(3):
        first.step()
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, first.state_tensors(), first.state_info())
    resumed = trainer(base, **fields)
    resumed.load_state(*load_checkpoint(path))
    for _ in range(3):
        resumed.step()
    assert resumed.history == whole.history
    for key, value in whole.state_tensors().items():
        assert torch.equal(resumed.state_tensors()[key], value), key


def test_recomputed_activations_train_the_same_adapter(base: Base) -> None:
    plain, less = trainer(base), trainer(base, recompute=True)
    saved: dict[str, int] = {}

    def bytes_saved(own: AdapterTrainer, name: str) -> None:
        def count(tensor: Tensor) -> Tensor:
            saved[name] = saved.get(name, 0) + tensor.nbytes
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            own.step()

    for _ in range(2):
        bytes_saved(plain, "plain")
        bytes_saved(less, "less")
    assert less.history == plain.history
    for key, value in plain.state_tensors().items():
        assert torch.equal(less.state_tensors()[key], value), key
    assert saved["less"] < 0.6 * saved["plain"]
    assert not base.unet.is_gradient_checkpointing


def test_training_lowers_the_loss_and_leaves_the_base(base: Base) -> None:
    before = {k: v.clone() for k, v in base.unet.state_dict().items()}
    own = trainer(base)
    draws = own.draw(0)
    start = float(own.loss(draws).detach())
    for _ in range(30):
        own.step()
    assert float(own.loss(draws).detach()) < start
    assert all(torch.equal(v, before[k]) for k, v in base.unet.state_dict().items())


def test_trainings_share_a_base(base: Base) -> None:
    """Steps of two trainings in turns equal those of each alone."""
    alone = [trainer(base, seed=seed) for seed in (0, 1)]
    for own in alone:
        for _ in range(2):
            own.step()
    turns = [trainer(base, seed=seed) for seed in (0, 1)]
    for _ in range(2):
        for own in turns:
            own.step()
    assert [t.history for t in turns] == [t.history for t in alone]
    assert alone[0].history != alone[1].history


def test_the_seed_draws_factors_and_noise(base: Base) -> None:
    a, b = trainer(base), trainer(base, seed=1)
    key = next(iter(a.parameters))
    assert key.endswith(".to_q.down")
    assert not torch.equal(a.parameters[key], b.parameters[key])
    assert not torch.equal(a.draw(0).noise, b.draw(0).noise)
    assert not torch.equal(a.draw(0).noise, a.draw(1).noise)


@pytest.mark.parametrize(("attentions", "kept"), [("self", "attn1"), ("cross", "attn2")])
def test_attentions_to_train(base: Base, attentions: str, kept: str) -> None:
    keys = trainer(base, attentions=attentions).adapter().factors
    assert keys
    assert all(f".{kept}." in key for key in keys)


def test_views(base: Base) -> None:
    plain, mirrored = trainer(base), trainer(base, flip=True)
    mean, _ = plain.views.posterior(0)
    assert mean.shape == (1, 4, SIZE // 2, (SIZE + 16) // 2)
    assert plain.views.posterior(0)[0].equal(plain.views.posterior(7)[0])
    assert len({float(mirrored.views.posterior(i)[0][0, 0, 0, 0]) for i in range(20)}) == 2
    cropped = trainer(base, crop=True)
    assert cropped.views.posterior(0)[0].shape == (1, 4, SIZE // 2, SIZE // 2)
    assert not cropped.views.posterior(0)[0].equal(cropped.views.posterior(1)[0])


def test_velocity_prediction(tmp_path: Path) -> None:
    """The target of v-prediction, sqrt(a) noise - sqrt(1 - a) z, gives the noise back."""
    base = load_base(write_pipeline(tmp_path, "v_prediction"))
    own = trainer(base)
    draws = own.draw(0)
    x_t, target, t = own.noised(draws)
    eps = base.schedule.to_eps(target, x_t, int(t[0]))
    torch.testing.assert_close(eps, draws.noise, atol=1e-5, rtol=1e-5)


def test_bfloat16(base: Base) -> None:
    exact, short = trainer(base), trainer(base, precision="bfloat16")
    a, b = exact.step()["total"], short.step()["total"]
    assert a != b
    assert b == pytest.approx(a, rel=0.05)
    assert all(f.up.dtype == torch.float32 for f in short.adapter().factors.values())


def test_a_float16_base_is_refused(pipeline: Path) -> None:
    half = load_base(pipeline, dtype=torch.float16)
    message = (
        r"dtype of the base is float16; training needs float32 weights.*with dtype=torch\.float32"
    )
    with pytest.raises(UserError, match=message):
        trainer(half)


def test_the_adapter_names_its_making(base: Base) -> None:
    own = trainer(base)
    own.step()
    info = own.adapter().info
    assert info["prompt"] == "painting of <sss>, deer"
    assert info["steps"] == 1
    assert info["settings"]["rank"] == 2


def test_divergence_names_the_step(base: Base) -> None:
    own = trainer(base, lr=1.0)
    own.step()
    for parameter in own.parameters.values():
        parameter.data.fill_(float("inf"))
    with pytest.raises(DivergedError, match="diverged at step 2: the loss is nan; lower lr"):
        own.step()


def test_style_image_sizes() -> None:
    picture = Image.new("RGB", (300, 200))
    published = make_train_settings("reference", resolution=64)
    assert style_tensor(picture, published, 512).shape == (3, 64, 96)
    assert style_tensor(Image.new("RGB", (303, 200)), published, 512).shape == (3, 64, 96)
    rounded = make_train_settings(resolution=64)
    assert style_tensor(Image.new("RGB", (315, 200)), rounded, 512).shape == (3, 64, 104)
    assert style_tensor(picture, make_train_settings(), 128).shape == (3, 128, 192)

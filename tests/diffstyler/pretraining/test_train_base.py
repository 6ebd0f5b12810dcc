from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from diffstyler.base import load_base
from diffstyler.pretraining.loop import StageLoop
from diffstyler.pretraining.settings import PretrainSettings, Sizes
from diffstyler.pretraining.stages import VaeObjective, reconstruction_error
from osasis.errors import UserError
from osasis.validation import InvalidInputError
from tests.diffstyler.pretraining.small_training import SIZES, training, weights


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    assert training(folder).run()
    return folder


def test_a_finished_run_is_a_base(run: Path) -> None:
    base = load_base(run / "base")
    assert (base.latent_factor, base.image_size) == (2, 16)
    assert len(base.sites.attentions) == 8
    assert base.sites.feature == "up_blocks.1.resnets.1.conv2"
    assert weights(run)["unet.conv_in.weight"].dtype == torch.float16
    scale = base.vae.config.scaling_factor
    assert scale > 0 and scale != 0.18215
    with Image.open(run / "samples" / "diffusion-0000004.png") as image:
        assert image.size == (8 * 18 - 2, 2 * 18 - 2)


@pytest.mark.parametrize("killed_at", [pytest.param(2, marks=pytest.mark.slow), 5])
def test_a_killed_run_is_resumed_bit_for_bit(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    """Killed in the VAE's training (3 steps), or in that of the UNet (4 steps)."""
    calls = []

    def step(loop: StageLoop) -> float:
        calls.append(1)
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        return whole_step(loop)

    whole_step = StageLoop.step
    monkeypatch.setattr(StageLoop, "step", step)
    with pytest.raises(KeyboardInterrupt):
        training(tmp_path, checkpoint_seconds=0.0).run()
    assert training(tmp_path).run()
    # The killed call and no other was repeated.
    assert len(calls) == 3 + 4 + 1
    resumed, uninterrupted = weights(tmp_path), weights(run)
    assert resumed.keys() == uninterrupted.keys()
    assert all(torch.equal(resumed[key], value) for key, value in uninterrupted.items())


def test_a_time_limit_saves_and_stops(tmp_path: Path) -> None:
    assert not training(tmp_path, minutes=1e-9).run()
    assert (tmp_path / "vae.state.safetensors").is_file()
    assert not (tmp_path / "diffusion.state.safetensors").exists()


def test_another_run_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match=r"differs in setting lr \(0.001, now 0.1\); continue it"):
        training(run, lr=0.1)


def test_the_vae_learns(tmp_path: Path) -> None:
    made = training(tmp_path, vae_batch_size=4)
    objective = VaeObjective(made.vae, made.pictures.images, made.settings)
    loop = StageLoop(made.vae, objective, made.settings, steps=40, lr=0.02)
    losses = [loop.step() for _ in range(40)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_errors_of_edges_count() -> None:
    x = torch.zeros(1, 3, 2, 2)
    assert float(reconstruction_error(x + 1, x)) == 1.0
    edge = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).expand(1, 3, 2, 2)
    assert float(reconstruction_error(edge, x)) == 0.5 + 1.0


def test_the_learning_rate_warms_up_and_falls_at_the_end() -> None:
    settings = PretrainSettings(warmup=4, decay=0.5)
    network = torch.nn.Linear(1, 1)
    loop = StageLoop(network, lambda i: network.weight.sum(), settings, steps=10, lr=1.0)
    assert [loop.rate(i) for i in (0, 1, 3, 5, 6, 9)] == [0.25, 0.5, 1.0, 1.0, 0.8, 0.2]


def test_sizes_are_checked() -> None:
    assert Sizes.parse(json.loads(json.dumps(SIZES))).latent_size == 8
    for wrong, message in (
        ({"image_size": 24}, "image_size is 24 with 2 vae_widths; it must be 16 times n"),
        ({"vae_widths": [8, 6]}, "vae_widths has 6, which groups 4 does not divide"),
        ({"text_width": 9}, "text_width is 9; it must be 2 times n"),
        ({"unet_widths": [8, 8]}, "unet_widths"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            Sizes.parse(SIZES | wrong)

"""Training a base: loop, stages, resume, workers, invalid input, command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from osasis.arithmetic import ENVIRONMENT
from osasis.bundles.importers import read_diffae, read_prior
from osasis.checkpoints import load_checkpoint
from osasis.errors import UserError
from osasis.images.photo_set import PhotoSet
from osasis.networks.sizes import DiffAEConfig, PriorConfig
from osasis.pretraining.objectives import DiffAEObjective
from osasis.pretraining.settings import PretrainSettings
from osasis.pretraining.train_base import BaseTraining, Event, LossPoint
from osasis.pretraining.training_loop import WorkerContext
from osasis.validation import InvalidInputError

Settings = Callable[..., PretrainSettings]


@pytest.fixture
def photos(images: Callable[..., Tensor], tiny_config: DiffAEConfig) -> PhotoSet:
    size = tiny_config.image_size
    pictures = torch.nn.functional.interpolate(images(12, 5), (size, size))
    return PhotoSet(((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))


@pytest.fixture
def few() -> Settings:
    def make(**overrides: Any) -> PretrainSettings:
        values: dict[str, Any] = {
            "iterations": 6,
            "batch_size": 4,
            "lr": 1e-3,
            "warmup": 2,
            "latent_iterations": 4,
            "latent_batch_size": 8,
            "checkpoint_every": 2,
            "precision": "float32",
        }
        return PretrainSettings.parse({**values, **overrides})

    return make


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "weights" / "diffae.safetensors")


class KilledError(Exception):
    """Simulates the end of the process between two iterations."""


def test_interrupted_and_resumed_equals_uninterrupted(
    tmp_path: Path, tiny_config: DiffAEConfig, photos: PhotoSet, few: Settings
) -> None:
    settings = few(iterations=30, checkpoint_every=7, latent_iterations=20)
    assert BaseTraining(tmp_path / "whole", photos, tiny_config, settings).run()

    # Kill the run in each stage, at an iteration without a checkpoint.
    for stage in ("diffae", "latent"):

        def kill(event: Event, stage: str = stage) -> None:
            if event.stage == stage and event.iteration == 10:
                raise KilledError

        with pytest.raises(KilledError):
            BaseTraining(tmp_path / "parts", photos, tiny_config, settings, on_event=kill).run()
    assert BaseTraining(tmp_path / "parts", photos, tiny_config, settings).run()
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


@pytest.mark.slow
def test_a_resumed_run_keeps_its_arithmetic(
    tmp_path: Path,
    tiny_config: DiffAEConfig,
    photos: PhotoSet,
    few: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``auto`` resolves to another arithmetic when the run is resumed."""
    settings = few(iterations=30, checkpoint_every=7, precision="auto")
    monkeypatch.setenv(ENVIRONMENT, "bfloat16")
    assert BaseTraining(tmp_path / "whole", photos, tiny_config, settings).run()

    def kill(event: Event) -> None:
        if event.iteration == 10:
            raise KilledError

    with pytest.raises(KilledError):
        BaseTraining(tmp_path / "parts", photos, tiny_config, settings, on_event=kill).run()
    _, info = load_checkpoint(tmp_path / "parts" / "diffae.state.safetensors")
    assert info == {"iteration": 7, "arithmetic": "bfloat16"}
    monkeypatch.setenv(ENVIRONMENT, "float32")
    assert BaseTraining(tmp_path / "parts", photos, tiny_config, settings).run()
    assert BaseTraining(tmp_path / "float32", photos, tiny_config, settings).run()
    whole, parts, other = (
        load_file(tmp_path / n / "weights" / "diffae-only.safetensors")
        for n in ("whole", "parts", "float32")
    )
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    assert not all(torch.equal(whole[k], other[k]) for k in whole)


def test_the_loss_falls_and_the_result_imports(
    tmp_path: Path, tiny_config: DiffAEConfig, photos: PhotoSet, few: Settings
) -> None:
    losses: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, LossPoint) and event.stage == "diffae":
            losses.append(event.loss)

    settings = few(iterations=60, lr=3e-3, latent_iterations=0)
    assert BaseTraining(tmp_path, photos, tiny_config, settings, on_event=note).run()
    assert len(losses) == 6 and losses[-1] < 0.9 * losses[0]
    tensors, mean, std = read_diffae(tmp_path / "weights" / "diffae.safetensors", tiny_config)
    assert mean.shape == std.shape == (1, tiny_config.z_channels)
    assert bool((std > 0).all()) and len(tensors) > 50


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_gradients_do_not_depend_on_the_number_of_workers(
    tmp_path: Path, tiny_config: DiffAEConfig, photos: PhotoSet, few: Settings, prediction: str
) -> None:
    """The mean gradient of two workers equals that of one worker; run in one process."""
    config = tiny_config.replace(prediction=prediction)
    gradients: dict[int, dict[str, Tensor]] = {}
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        # The second of two workers reuses the folder of the first.
        run = BaseTraining(
            tmp_path / f"{world}", photos, config, few(), worker=WorkerContext(rank, world)
        )
        objective = DiffAEObjective(run.diffae, train_encoder=True, weighting="uniform")
        loop = run._make_loop(objective, "diffae", 6, 0.0)
        loop.settings = run.settings.replace(grad_clip=1e6)
        loop.step(photos.batch(0, 0, 4))
        gradients[10 * world + rank] = {
            k: p.grad.clone() for k, p in loop.trained.items() if p.grad is not None
        }
    one, a, b = gradients[10], gradients[20], gradients[21]
    for key, value in one.items():
        torch.testing.assert_close((a[key] + b[key]) / 2, value, rtol=1e-3, atol=1e-6)


def test_a_frozen_encoder_is_unchanged(
    tmp_path: Path, tiny_config: DiffAEConfig, photos: PhotoSet, few: Settings
) -> None:
    first = few(iterations=4, latent_iterations=2)
    assert BaseTraining(tmp_path / "first", photos, tiny_config, first).run()
    start = tmp_path / "first" / "weights" / "diffae.safetensors"
    velocity = tiny_config.replace(prediction="v")
    second = few(iterations=4, latent_iterations=0, encoder="frozen")
    assert BaseTraining(tmp_path / "second", photos, velocity, second, start=start).run()
    before, after = load_file(start), weights(tmp_path / "second")
    for key, value in before.items():
        kept = key.startswith(("ema_model.encoder.", "ema_model.latent_net.", "conds_"))
        assert torch.equal(value, after[key]) == (kept or bool((value == after[key]).all()))
    assert not torch.equal(before["ema_model.out.2.weight"], after["ema_model.out.2.weight"])
    with pytest.raises(UserError, match="encoder 'frozen' needs trained weights"):
        BaseTraining(tmp_path / "third", photos, velocity, second)


def test_the_prior_of_the_configuration_is_trained(
    tmp_path: Path, tiny_config: DiffAEConfig, photos: PhotoSet, few: Settings
) -> None:
    prior = PriorConfig(
        model_channels=8,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(8,),
        head_channels=8,
    )
    config = tiny_config.replace(prior=prior)
    losses: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, LossPoint) and event.stage == "prior":
            losses.append(event.loss)

    settings = few(iterations=2, latent_iterations=0, prior_iterations=60, lr=3e-3)
    assert BaseTraining(tmp_path, photos, config, settings, on_event=note).run()
    assert losses[-1] < 0.8 * losses[0]
    read_prior(tmp_path / "weights" / "prior.safetensors", config)


def test_a_folder_with_another_run_is_refused(
    tmp_path: Path, tiny_config: DiffAEConfig, photos: PhotoSet, few: Settings
) -> None:
    BaseTraining(tmp_path, photos, tiny_config, few())
    BaseTraining(tmp_path, photos, tiny_config, few(checkpoint_every=3))
    with pytest.raises(UserError, match=r"setting lr \(0.001, now 0.01\)"):
        BaseTraining(tmp_path, photos, tiny_config, few(lr=0.01))
    with pytest.raises(UserError, match="photos"):
        BaseTraining(tmp_path, PhotoSet(photos.photos[1:]), tiny_config, few())
    with pytest.raises(UserError, match="config"):
        BaseTraining(tmp_path, photos, tiny_config.replace(prediction="v"), few())


def test_settings_report_every_problem() -> None:
    with pytest.raises(InvalidInputError) as e:
        PretrainSettings.parse({"itertions": 3, "ema": 2.0, "encoder": "thawed", "precision": 1})
    found = {p.field: p for p in e.value.problems}
    assert {field: p.value for field, p in found.items()} == {
        "itertions": 3,
        "ema": 2.0,
        "encoder": "thawed",
        "precision": 1,
    }
    assert "nearest: iterations" in found["itertions"].message
    assert found["encoder"].allowed == "one of trained, frozen"


@pytest.mark.slow
def test_the_command_stops_and_resumes(tmp_path: Path, tiny_config: DiffAEConfig) -> None:
    """`python -m osasis.pretraining.train_base` with a time limit, then without."""
    (tmp_path / "photos").mkdir()
    for i in range(4):
        Image.new("RGB", (40, 40), (60 * i, 30, 200)).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "tiny.json").write_text(json.dumps(tiny_config.to_dict()))
    command = [
        *(
            sys.executable,
            "-m",
            "osasis.pretraining.train_base",
            "--images",
            str(tmp_path / "photos"),
        ),
        *("--config", str(tmp_path / "tiny.json"), "--out", str(tmp_path / "run")),
        *("--set", "iterations=20", "--set", "batch_size=2", "--set", "latent_iterations=2"),
        *("--set", "samples_every=10"),
    ]
    stopped = subprocess.run([*command, "--minutes", "0"], capture_output=True, text=True)
    assert stopped.returncode == 1 and "the same command continues" in stopped.stderr
    assert not (tmp_path / "run" / "weights").exists()
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "run" / "weights" / "diffae.safetensors").is_file()
    with Image.open(tmp_path / "run" / "samples" / "0000010.png") as picture:
        assert picture.size == (4 * tiny_config.image_size + 6, 2 * tiny_config.image_size + 2)
    wrong = subprocess.run([*command, "--set", "lr=7"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "lr is 7" in wrong.stderr and "Traceback" not in wrong.stderr

"""Official checkpoints are converted exactly, or refused without executing their code."""

from __future__ import annotations

import os
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from osasis.bundles.base import Base
from osasis.bundles.importers import read_diffae, read_prior, read_style, read_tensors
from osasis.errors import UserError
from osasis.networks.checkpoint_keys import to_official
from osasis.networks.sizes import PriorConfig
from osasis.networks.unet import UNet
from osasis.storage import save_tensors

Checkpoint = dict[str, Any]


@pytest.fixture
def lightning(tiny_base: Base) -> Checkpoint:
    """A Lightning checkpoint of the tiny base's DiffAE."""
    official = to_official(tiny_base.diffae.state_dict())
    state = dict(official)
    state |= {k.replace("ema_model.", "model."): v + 1 for k, v in official.items()}
    state |= {"x_T": torch.zeros(2, 3, 32, 32)}
    return {
        "epoch": 3,
        "global_step": 7,
        "pytorch-lightning_version": "1.4.5",
        "state_dict": state,
        "callbacks": {"checkpoint": {"best_model_score": None, "dirpath": "checkpoints"}},
        "optimizer_states": [{"state": {0: {"step": 7}}, "param_groups": [{"lr": 1e-4}]}],
        "lr_schedulers": [],
    }


@pytest.fixture
def stats(tiny_base: Base, tmp_path: Path) -> Path:
    path = tmp_path / "latent.pkl"
    content = {
        "conds": torch.zeros(5, 16),
        "conds_mean": tiny_base.z_mean[0],
        "conds_std": tiny_base.z_std[0],
    }
    torch.save(content, path)
    return path


def check(base: Base, result: tuple[dict[str, Tensor], Tensor, Tensor]) -> None:
    tensors, mean, std = result
    own = base.diffae.state_dict()
    assert set(tensors) == set(own)
    assert all(torch.equal(tensors[k], own[k]) for k in own)
    assert torch.equal(mean, base.z_mean) and torch.equal(std, base.z_std)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_lightning_checkpoint_is_read_exactly(
    tiny_base: Base, lightning: Checkpoint, stats: Path, tmp_path: Path, zipped: bool
) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(lightning, path, _use_new_zipfile_serialization=zipped)
    check(tiny_base, read_diffae(path, tiny_base.config, stats))


def test_statistics_inside_the_checkpoint(
    tiny_base: Base, lightning: Checkpoint, tmp_path: Path
) -> None:
    lightning["state_dict"] |= {"conds_mean": tiny_base.z_mean, "conds_std": tiny_base.z_std}
    torch.save(lightning, tmp_path / "last.ckpt")
    check(tiny_base, read_diffae(tmp_path / "last.ckpt", tiny_base.config))


def test_a_safetensors_file_with_the_same_keys(tiny_base: Base, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    state = to_official(tiny_base.diffae.state_dict())
    extra = {"conds_mean": tiny_base.z_mean, "conds_std": tiny_base.z_std}
    # The latent net's linear layers are stored twice.
    save_tensors(path, {k: v.clone() for k, v in (state | extra).items()})
    check(tiny_base, read_diffae(path, tiny_base.config))


def test_missing_unknown_and_misshapen_keys_are_named(
    tiny_base: Base, lightning: Checkpoint, stats: Path, tmp_path: Path
) -> None:
    path, state = tmp_path / "last.ckpt", lightning["state_dict"]
    whole = dict(state)
    for change, expected in (
        ({"ema_model.out.2.bias": None}, "ema_model.out.2.bias is missing"),
        ({"ema_model.other": torch.zeros(1)}, "ema_model.other is unknown"),
        (
            {"ema_model.out.2.bias": torch.zeros(4)},
            "ema_model.out.2.bias has shape [4], not [3]",
        ),
        ({"generator.weight": torch.zeros(1)}, "not a DiffAE checkpoint: unknown key generator"),
    ):
        kept = {k: v for k, v in (whole | change).items() if v is not None}
        torch.save({**lightning, "state_dict": kept}, path)
        with pytest.raises(UserError) as e:
            read_diffae(path, tiny_base.config, stats)
        assert expected in str(e.value) and str(path) in str(e.value)


def test_latent_statistics_are_checked(
    tiny_base: Base, lightning: Checkpoint, tmp_path: Path
) -> None:
    path, stats = tmp_path / "last.ckpt", tmp_path / "latent.pkl"
    torch.save(lightning, path)
    with pytest.raises(UserError, match=r"last.ckpt: no conds_mean with 16 values.*latent.pkl"):
        read_diffae(path, tiny_base.config)
    torch.save({"conds_mean": torch.zeros(16), "conds_std": torch.ones(15)}, stats)
    with pytest.raises(UserError, match=r"latent.pkl: no conds_std with 16 values"):
        read_diffae(path, tiny_base.config, stats)
    torch.save({"conds_mean": torch.zeros(16), "conds_std": torch.zeros(16)}, stats)
    with pytest.raises(UserError, match="conds_std must be positive"):
        read_diffae(path, tiny_base.config, stats)


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(3),
        {"weights": torch.zeros(3)},
        {"state_dict": {}},
        {"state_dict": 3},
        {"state_dict": [torch.zeros(1)]},
        {"state_dict": {0: torch.zeros(1)}},
        {0: torch.zeros(1)},
        {"state_dict": {"model.x": torch.zeros(1)}},
    ],
    ids=repr,
)
def test_files_without_a_diffae_are_refused(tiny_base: Base, content: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    torch.save(content, path)
    with pytest.raises(UserError, match=r"other\.ckpt"):
        read_diffae(path, tiny_base.config)


def test_values_other_than_tensors_are_refused(
    tiny_base: Base, lightning: Checkpoint, stats: Path, tmp_path: Path
) -> None:
    lightning["state_dict"]["ema_model.out.2.bias"] = [1.0, 2.0, 3.0]
    torch.save(lightning, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt: .*named tensors"):
        read_diffae(tmp_path / "last.ckpt", tiny_base.config, stats)


@pytest.mark.parametrize("suffix", ["ckpt", "pt", "safetensors"])
@pytest.mark.parametrize("data", [b"", b"not a checkpoint", b"PK\x03\x04 broken zip"])
def test_broken_files_are_refused(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"broken.*cannot be read as a checkpoint"):
        read_tensors(path)
    with pytest.raises(UserError, match="no such file"):
        read_tensors(tmp_path / f"absent.{suffix}")


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_code_in_a_checkpoint_is_refused_and_not_executed(
    tiny_base: Base, lightning: Checkpoint, tmp_path: Path, form: str
) -> None:
    path, marker = tmp_path / "evil.ckpt", tmp_path / "marker"
    lightning["callbacks"] = {"x": Payload(marker)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(lightning, protocol=2))
    else:
        torch.save(lightning, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UserError, match=r"evil.ckpt: cannot be read as a checkpoint"):
        read_diffae(path, tiny_base.config)
    assert not marker.exists()
    # Check the payload itself: an unsafe load executes it.
    if form == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.is_dir()


@pytest.fixture
def model_checkpoint() -> Iterator[type]:
    """A class importable as Lightning's ModelCheckpoint until the test removes it."""
    names = ["pytorch_lightning", "pytorch_lightning.callbacks"]
    names.append("pytorch_lightning.callbacks.model_checkpoint")
    if any(n in sys.modules for n in names):
        pytest.skip("Lightning is imported")
    modules = {n: types.ModuleType(n) for n in names}
    made = type("ModelCheckpoint", (), {"__module__": names[-1]})
    modules[names[-1]].ModelCheckpoint = made  # type: ignore[attr-defined]
    sys.modules.update(modules)
    yield made
    for n in names:
        sys.modules.pop(n, None)


def test_old_lightning_classes_get_inert_stand_ins(
    tiny_base: Base,
    lightning: Checkpoint,
    stats: Path,
    tmp_path: Path,
    model_checkpoint: type,
) -> None:
    path = tmp_path / "last.ckpt"
    before = torch.serialization.get_safe_globals()
    lightning["callbacks"] = {model_checkpoint: {"best_model_path": "x"}}
    torch.save(lightning, path)
    for name in [n for n in sys.modules if n.startswith("pytorch_lightning")]:
        del sys.modules[name]
    check(tiny_base, read_diffae(path, tiny_base.config, stats))
    assert not any(n.startswith("pytorch_lightning") for n in sys.modules)
    # The stand-ins are registered for one read only.
    assert set(torch.serialization.get_safe_globals()) == set(before)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def test_stand_ins_allow_no_other_class(
    tiny_base: Base, lightning: Checkpoint, tmp_path: Path, model_checkpoint: type
) -> None:
    path, marker = tmp_path / "last.ckpt", tmp_path / "marker"
    lightning["callbacks"] = {model_checkpoint: Payload(marker)}
    torch.save(lightning, path)
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        read_diffae(path, tiny_base.config)
    assert not marker.exists()


def test_a_published_style(
    tiny_base: Base,
    random_weights: Callable[..., dict[str, Tensor]],
    images: Callable[..., Tensor],
    tiny_style: Callable[..., Any],
    tmp_path: Path,
) -> None:
    own = dict(tiny_base.diffae.state_dict())
    changed = {
        "unet.out.2.bias": own["unet.out.2.bias"] + 0.5,
        "unet.input_blocks.0.0.weight": 2 * own["unet.input_blocks.0.0.weight"],
    }
    spn = tiny_style().spn
    path = tmp_path / "iter_200.pt"
    content = {"diffae_B": to_official(own | changed, prefix=""), "model_map": spn}
    torch.save({**content, "iteration": 200}, path)
    image = images(1, 70)
    style = read_style(path, tiny_base, "published", image)
    assert set(style.delta) == {"out.2.bias", "input_blocks.0.0.weight"}
    torch.testing.assert_close(style.delta["out.2.bias"], torch.full((3,), 0.5))
    weight = own["unet.input_blocks.0.0.weight"]
    torch.testing.assert_close(style.delta["input_blocks.0.0.weight"], weight)
    assert set(style.spn) == set(spn) and all(torch.equal(style.spn[k], spn[k]) for k in spn)
    assert torch.equal(style.z_style, tiny_base.encode_z(image))
    assert style.settings.spacing == "leading" and style.settings.spn_time == "index"
    assert style.info == {"base": tiny_base.fingerprint, "imported_from": "iter_200.pt"}

    del content["model_map"]["out_layer.0.bias"]
    torch.save(content, path)
    with pytest.raises(UserError, match=r"\(model_map\).*out_layer.0.bias is missing"):
        read_style(path, tiny_base, "published", image)
    del content["diffae_B"]["out.2.bias"]
    torch.save(content, path)
    with pytest.raises(UserError, match=r"\(diffae_B\).*out.2.bias is missing"):
        read_style(path, tiny_base, "published", image)
    torch.save({"diffae_B": {}}, path)
    with pytest.raises(UserError, match="'model_map' is missing"):
        read_style(path, tiny_base, "published", image)


def test_a_prior(
    tiny_base: Base, random_weights: Callable[..., dict[str, Tensor]], tmp_path: Path
) -> None:
    path = tmp_path / "p2.pt"
    prior = PriorConfig(
        model_channels=8,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(16,),
        head_channels=8,
    )
    config = tiny_base.config.replace(prior=prior)
    state = random_weights(UNet(prior.unet(32)), seed=13)
    torch.save({k: v.half() for k, v in state.items()}, path)
    read = read_prior(path, config)
    assert all(torch.equal(read[k], state[k].half().float()) for k in state)
    with pytest.raises(UserError, match="configuration 'tiny' has no prior"):
        read_prior(path, tiny_base.config)
    torch.save({k: v for k, v in state.items() if k != "out.2.bias"}, path)
    with pytest.raises(UserError, match=r"p2.pt: .*out.2.bias is missing"):
        read_prior(path, config)

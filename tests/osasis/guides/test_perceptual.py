"""The perceptual net equals the lpips library's distance."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import lpips
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from osasis.errors import UserError
from osasis.guides.perceptual import PerceptualNet
from osasis.storage import save_tensors, to_float16

WEIGHTS = Path(__file__).resolve().parents[4] / "shared" / "weights"
Images = Callable[..., Tensor]


def library(net: str, weights: Path) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    model.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
    return model.eval()


@torch.no_grad()
def test_equals_the_library(perceptual_file: Path, images: Images) -> None:
    own, theirs = PerceptualNet("alex", perceptual_file), library("alex", perceptual_file)
    a, b = images(3, 1), images(3, 2)
    d = own(a, b)
    assert d.shape == (3,) and d.min() > 0.01
    torch.testing.assert_close(d, theirs(a, b).flatten(), atol=1e-5, rtol=0)
    torch.testing.assert_close(own(a[:1], b), theirs(a[:1], b).flatten(), atol=1e-5, rtol=0)
    assert own(a, a).abs().max() == 0


@torch.no_grad()
def test_distances_from_precomputed_features(perceptual_file: Path, images: Images) -> None:
    net = PerceptualNet("alex", perceptual_file)
    a, b = images(2, 1), images(2, 2)
    features = net.features(a)
    assert [f.shape[1] for f in features] == [64, 192, 384, 256, 256]
    assert torch.equal(net.from_features(features, net.features(b)), net(a, b))


@torch.no_grad()
@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_the_real_weights(net: str, images: Images) -> None:
    path = WEIGHTS / f"lpips_{net}.safetensors"
    if not path.is_file():
        pytest.skip(f"no {path.name} in {path.parent}")
    own, theirs = PerceptualNet(net, path), library(net, path)
    a, b = images(2, 1), images(2, 2)
    torch.testing.assert_close(own(a, b), theirs(a, b).flatten(), atol=1e-5, rtol=0)
    near = (a + 0.02 * b).clamp(-1, 1)
    assert (own(a, near) < 0.5 * own(a, b)).all() and own(a, near).min() > 0


def test_parameters_are_frozen(perceptual_file: Path) -> None:
    net = PerceptualNet("alex", perceptual_file)
    assert not net.training and not any(p.requires_grad for p in net.parameters())


def test_a_float16_state_loads_again(perceptual_file: Path, images: Images, tmp_path: Path) -> None:
    net = PerceptualNet("alex", perceptual_file)
    save_tensors(tmp_path / "half.safetensors", to_float16(net.model.state_dict()))
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * perceptual_file.stat().st_size
    half = PerceptualNet("alex", tmp_path / "half.safetensors")
    a, b = images(2, 1), images(2, 2)
    torch.testing.assert_close(half(a, b), net(a, b), atol=0, rtol=1e-2)


def test_wrong_weights_are_refused(perceptual_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown perceptual net 'vgg19'"):
        PerceptualNet("vgg19", perceptual_file)
    with pytest.raises(UserError, match=r"absent\.safetensors: no such file"):
        PerceptualNet("alex", tmp_path / "absent.safetensors")
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match="not a safetensors file"):
        PerceptualNet("alex", garbage)

    state = load_file(perceptual_file)
    missing, extra, shape = (tmp_path / f"{n}.safetensors" for n in ("missing", "extra", "shape"))
    save_tensors(missing, {k: v for k, v in state.items() if k != "net.slice1.0.bias"})
    save_tensors(extra, state | {"net.slice9.0.bias": torch.zeros(1)})
    save_tensors(shape, state | {"net.slice2.3.bias": torch.zeros(1)})
    for path, key in (
        (missing, "net.slice1.0.bias"),
        (extra, "net.slice9.0.bias"),
        (shape, "net.slice2.3.bias"),
    ):
        with pytest.raises(UserError, match=f"not the weights of LPIPS.*first at {key}"):
            PerceptualNet("alex", path)
    with pytest.raises(UserError, match="not the weights of LPIPS with net 'vgg'"):
        PerceptualNet("vgg", perceptual_file)

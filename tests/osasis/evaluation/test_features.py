"""LPIPS, style statistics and self-similarity against the library and hand-computed values."""

from __future__ import annotations

import warnings
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from torch import Tensor

from osasis.evaluation.features import (
    feature_statistics,
    lpips_metric,
    self_similarity,
    structure_metric,
    style_metric,
)
from osasis.evaluation.metric import Pair, Picture
from osasis.guides.perceptual import PerceptualNet
from osasis.images.tensors import image_to_tensor
from osasis.storage import save_tensors
from tests.tiny import make_perceptual_file, picture


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> PerceptualNet:
    path = make_perceptual_file(tmp_path_factory.mktemp("net") / "alex.safetensors")
    return PerceptualNet("alex", path)


def image(seed: int, size: int = 64) -> Picture:
    return Picture(image_to_tensor(picture(seed, (size, size))))


def pair(photo: Picture, stylized: Picture, style: Picture) -> Pair:
    return Pair(photo, stylized, style, photo)


def test_lpips_equals_the_library(net: PerceptualNet, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        theirs = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
    theirs.load_state_dict(net.model.state_dict())
    a, b = image(1), image(2)
    measured = lpips_metric(net, "AlexNet").of([pair(a, b, a)])
    assert measured == pytest.approx(theirs(a.batch, b.batch).item(), rel=1e-5)
    assert measured > 0.01


def test_style_is_the_share_of_the_photos_distance_of_means_and_deviations(
    net: PerceptualNet,
) -> None:
    photo, stylized, style = image(1), image(2), image(3)
    shares = []
    for a, b, s in zip(*(net.stages(p.batch, 3) for p in (photo, stylized, style)), strict=True):

        def statistics(f: Tensor) -> np.ndarray:
            channels = f[0].detach().numpy().reshape(f.shape[1], -1)
            return np.concatenate([channels.mean(1), channels.std(1, ddof=1)])

        target = statistics(s)
        near = np.linalg.norm(statistics(b) - target)
        shares.append(near / np.linalg.norm(statistics(a) - target))
    metric = style_metric(net, "AlexNet")
    assert metric.of([pair(photo, stylized, style)]) == pytest.approx(np.mean(shares), rel=1e-4)
    assert metric.of([pair(photo, style, style)]) == 0
    assert metric.of([pair(photo, photo, style)]) == pytest.approx(1)


def test_self_similarity_is_the_cosine_of_every_two_tokens() -> None:
    tokens = torch.tensor([[3.0, 4.0], [4.0, 3.0], [0.0, -2.0]])
    expected = torch.tensor([[1.0, 0.96, -0.8], [0.96, 1.0, -0.6], [-0.8, -0.6, 1.0]])
    assert torch.allclose(self_similarity(tokens), expected, atol=1e-6)


def test_structure_ignores_a_global_change_and_sees_a_moved_picture(net: PerceptualNet) -> None:
    photo = image(1)
    metric = structure_metric(net, "AlexNet")
    assert metric.of([pair(photo, photo, photo)]) == 0
    faded = Picture(photo.pixels * 0.8)
    mirrored = Picture(photo.pixels.flip(2))
    gap = metric.of([pair(photo, faded, photo)])
    assert 0 < gap < metric.of([pair(photo, mirrored, photo)]) / 4


def test_structure_is_the_mean_squared_difference_of_self_similarities(net: PerceptualNet) -> None:
    photo, stylized = image(1), image(2)
    found = []
    for p in (photo, stylized):
        # At 64 px AlexNet's first stage (15 x 15) is the deepest with 64 positions.
        (features,) = net.stages(p.batch, 1)
        flat = features[0].flatten(1).T.numpy()
        unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        found.append(unit @ unit.T)
    expected = ((found[0] - found[1]) ** 2).mean()
    measured = structure_metric(net, "AlexNet").of([pair(photo, stylized, photo)])
    assert measured == pytest.approx(expected, rel=1e-3)


def test_features_of_a_photo_are_computed_once(net: PerceptualNet) -> None:
    calls: list[int] = []
    photo = image(1)
    for _ in range(3):
        photo.once("key", lambda p: calls.append(1))
    assert calls == [1]
    photo.once("statistics", lambda p: feature_statistics(net, p.batch))
    assert len(photo.once("statistics", lambda p: [])) == 3


def test_dino_keys_equal_the_attentions_own(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    from osasis.errors import UserError
    from osasis.evaluation.dino import MEAN, SIDE, STD, keys, load_dino

    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    save_tensors(tmp_path / "vit.safetensors", vit.state_dict())
    loaded = load_dino(tmp_path / "vit.safetensors", "vit_tiny_patch16_224")
    photo = image(1)
    with torch.no_grad():
        resized = torch.nn.functional.interpolate(
            photo.batch, size=(SIDE, SIDE), mode="bicubic", antialias=True
        ).clamp(-1, 1)
        x = (resized + 1) / 2
        x = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
        x = vit.patch_drop(vit._pos_embed(vit.patch_embed(x)))
        x = vit.norm_pre(x)
        for block in vit.blocks[:-1]:
            x = block(x)
        last = vit.blocks[-1]
        width = x.shape[-1]
        expected = last.norm1(x) @ last.attn.qkv.weight[width : 2 * width].T
        expected = expected + last.attn.qkv.bias[width : 2 * width]
    found = keys(loaded, photo.batch)
    assert found.shape == (197, 192)
    assert torch.allclose(found, expected[0], atol=1e-4)
    with pytest.raises(UserError, match=r"vit\.safetensors: not the weights of DINO"):
        load_dino(tmp_path / "vit.safetensors", "vit_small_patch16_224")

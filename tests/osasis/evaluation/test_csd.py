"""CSD with a tiny random vision transformer, and CSLS against its definition."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor

from osasis.bundles.base import Base
from osasis.errors import UserError
from osasis.evaluation.choose import choose_metrics
from osasis.evaluation.csd import CSD, VIT_L_14, ViTSizes, csd_metrics, csls, load_csd
from osasis.evaluation.metric import Pair, Picture
from osasis.images.tensors import image_to_tensor
from tests.tiny import picture, random_state

TINY = ViTSizes("tiny", side=28, patch=14, width=32, layers=2, heads=2, output=16)


def image(seed: int) -> Picture:
    return Picture(image_to_tensor(picture(seed, (28, 28))))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the published layout: a training's checkpoint with its arguments."""
    path = tmp_path_factory.mktemp("csd") / "csd_vit-l.pth"
    state = {f"module.{k}": v for k, v in random_state(CSD(TINY), seed=3).items()}
    arguments = argparse.Namespace(arch="vit_large", lr=0.003)
    optimiser = {"param_groups": [{"lr": np.float64(0.1)}]}
    torch.save({"model_state_dict": state, "opt_bb": optimiser, "args": arguments}, path)
    return path


def test_the_layout_is_that_of_the_published_weights() -> None:
    with torch.device("meta"):
        state = CSD(VIT_L_14).state_dict()
    # The vision tower of CLIP ViT-L/14 without its projection, and the two projections.
    assert len(state) == 4 + 2 * 2 + 24 * 12 + 1
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    assert shapes["last_layer_style"] == shapes["last_layer_content"] == (1024, 768)
    assert shapes["backbone.positional_embedding"] == (257, 1024)
    assert shapes["backbone.transformer.resblocks.23.attn.in_proj_weight"] == (3072, 1024)
    assert "backbone.proj" not in state


def descriptor(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """The style descriptor by the definition of CLIP's vision tower (Radford et al., 2021)."""
    s = {k.removeprefix("backbone."): v for k, v in state.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return torch.nn.functional.layer_norm(x, (32,), s[f"{name}.weight"], s[f"{name}.bias"])

    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    patches = torch.nn.functional.conv2d(((pixels + 1) / 2 - mean) / std, s["conv1.weight"],
                                         stride=14).flatten(1).T  # fmt: skip
    x = norm(torch.cat([s["class_embedding"][None], patches]) + s["positional_embedding"], "ln_pre")
    for i in range(2):
        p = f"transformer.resblocks.{i}"
        qkv = norm(x, f"{p}.ln_1") @ s[f"{p}.attn.in_proj_weight"].T + s[f"{p}.attn.in_proj_bias"]
        q, k, v = (part.view(-1, 2, 16).transpose(0, 1) for part in qkv.chunk(3, dim=1))
        heads = (q @ k.transpose(1, 2) / 4).softmax(dim=2) @ v
        joined = heads.transpose(0, 1).flatten(1)
        x = x + joined @ s[f"{p}.attn.out_proj.weight"].T + s[f"{p}.attn.out_proj.bias"]
        h = norm(x, f"{p}.ln_2") @ s[f"{p}.mlp.c_fc.weight"].T + s[f"{p}.mlp.c_fc.bias"]
        h = h * (1.702 * h).sigmoid()
        x = x + h @ s[f"{p}.mlp.c_proj.weight"].T + s[f"{p}.mlp.c_proj.bias"]
    out = norm(x, "ln_post")[0] @ s["last_layer_style"]
    return out / out.norm()


def test_csd_is_the_cosine_of_style_descriptors(checkpoint: Path) -> None:
    net = load_csd(checkpoint, TINY)
    csd, set_csls = csd_metrics(net)
    assert not csd.lower_better and csd.backbone == "CSD tiny"
    a, b = image(1), image(2)
    expected = [descriptor(net.state_dict(), p.pixels) for p in (a, b)]
    assert csd.of([Pair(b, a, b, b)]) == pytest.approx(float(expected[0] @ expected[1]), abs=1e-5)
    assert csd.of([Pair(b, a, a, b)]) == pytest.approx(1)
    row = set_csls.measure(Pair(b, a, b, b))
    assert row == pytest.approx(torch.cat(expected).tolist(), abs=1e-5)


def test_wrong_weights_are_refused_and_missing_ones_named(
    checkpoint: Path, tmp_path: Path, tiny_base: Base
) -> None:
    with pytest.raises(UserError, match=r"csd_vit-l\.pth: not the weights of CSD ViT-L/14"):
        choose_metrics(tiny_base, ["csd"], checkpoint.parent)
    chosen = choose_metrics(tiny_base, ["csd", "csls"], tmp_path)
    assert not chosen.metrics
    assert chosen.unavailable["csls"] == "needs csd_vit-l.safetensors or csd_vit-l.pth in --weights"


def unit(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_csls_is_twice_the_cosine_less_both_neighbourhoods() -> None:
    # Two stylizations of a style at 0 degrees, one of a style at 90; fewer than ten neighbours.
    x, y = unit(0, 60, 90), unit(0, 0, 90)
    cosines = x @ unit(0, 90).T
    r_x, r_y = cosines.mean(axis=1), cosines.mean(axis=0)
    expected = np.mean([2 * cosines[i, s] - r_x[i] - r_y[s] for i, s in enumerate((0, 0, 1))])
    assert csls(np.hstack([x, y])) == pytest.approx(expected)
    assert math.isnan(csls(np.hstack([x, unit(0, 0, 0)])))


def test_csls_takes_the_ten_nearest() -> None:
    x, y = unit(*range(12), 90), unit(*[0] * 12, 90)
    own = np.cos(np.radians(range(12)))
    across = np.sin(np.radians(range(12)))
    r_first, r_second = np.sort(own)[-10:].mean(), (np.sort(across)[-9:].sum() + 1) / 10
    parts = [2 * c - (c + s) / 2 - r_first for c, s in zip(own, across, strict=True)]
    expected = np.mean([*parts, 2 - 0.5 - r_second])
    assert csls(np.hstack([x, y])) == pytest.approx(expected)

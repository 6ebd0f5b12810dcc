"""Session fixtures: a tiny base with random weights, styles, trainers and guides."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from osasis.bundles.base import Base, load_base, save_base
from osasis.bundles.style import Style
from osasis.contents import ContentBank, Contents, ContentSource, encode_contents
from osasis.guides.guide import OpenClipGuide, open_clip_guide
from osasis.guides.perceptual import PerceptualNet
from osasis.networks.sizes import DiffAEConfig
from osasis.settings import TrainSettings, make_settings
from osasis.train import StyleTrainer
from tests.tiny import (
    CONFIG,
    SIZE,
    make_perceptual_file,
    random_state,
    random_style,
    tiny_diffae,
    z_statistics,
)


def make_images(count: int, seed: int = 0, size: int = SIZE) -> Tensor:
    """Smooth random pictures (count, 3, size, size) that fill most of [-1, 1]."""
    rng = np.random.RandomState(seed)
    coarse = torch.from_numpy(rng.uniform(-1.2, 1.2, (count, 3, 5, 5))).float()
    fine = torch.from_numpy(rng.uniform(-0.2, 0.2, (count, 3, size, size))).float()
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return (smooth + fine).clamp(-1, 1)


def max_difference(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference."""
    return float((a - b).abs().max())


@pytest.fixture(scope="session")
def images() -> Callable[..., Tensor]:
    return make_images


@pytest.fixture(scope="session")
def random_weights() -> Callable[..., dict[str, Tensor]]:
    return random_state


@pytest.fixture(scope="session")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete random LPIPS state with VGG, as a teacher."""
    return make_perceptual_file(tmp_path_factory.mktemp("teacher") / "vgg.safetensors", "vgg")


@pytest.fixture(scope="session")
def perceptual_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_perceptual_file(tmp_path_factory.mktemp("perceptual") / "alex.safetensors")


@pytest.fixture(scope="session")
def tiny_config() -> DiffAEConfig:
    return CONFIG


@pytest.fixture(scope="session")
def tiny_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: DiffAEConfig, perceptual_file: Path
) -> Path:
    """The tiny base as a bundle on disk."""
    folder = tmp_path_factory.mktemp("base") / "tiny"
    mean, std = z_statistics()
    save_base(
        folder,
        name="tiny",
        config=tiny_config,
        diffae=tiny_diffae(),
        z_mean=mean[None],
        z_std=std[None],
        guide={"kind": "statistics", "stages": [0, 1, 2], "grid": 1},
        guide_weights=None,
        perceptual=PerceptualNet("alex", weights=perceptual_file),
        prior=None,
        photos=None,
        provenance={"made_by": "tests"},
    )
    return folder


@pytest.fixture(scope="session")
def tiny_base(tiny_folder: Path) -> Base:
    return load_base(tiny_folder)


@pytest.fixture(scope="session")
def tiny_settings() -> Callable[..., TrainSettings]:
    """Settings with few steps; keywords override fields."""

    def build(**overrides: Any) -> TrainSettings:
        few: dict[str, Any] = {
            "iterations": 4,
            "batch_size": 2,
            "lr_unet": 1e-3,
            "encode_solver": "ddim",
            "encode_steps": 10,
            "decode_steps": 4,
            "latent_steps": 10,
            "counterpart_candidates": 3,
            "counterpart_steps": 10,
        }
        return make_settings("default", **{**few, **overrides})

    return build


@pytest.fixture(scope="session")
def tiny_contents(tiny_base: Base, tiny_settings: Callable[..., TrainSettings]) -> Contents:
    return encode_contents(tiny_base, make_images(6, seed=3), tiny_settings())


@pytest.fixture(scope="session")
def tiny_style(
    tiny_base: Base, tiny_settings: Callable[..., TrainSettings]
) -> Callable[..., Style]:
    """Styles with random deltas, SPN and z from a seed; keywords are settings."""

    def build(style_id: str = "a", seed: int = 21, **settings: Any) -> Style:
        images = make_images(2, seed + 2)
        return random_style(tiny_base, style_id, seed, images, tiny_settings(**settings))

    return build


@pytest.fixture(scope="session")
def tiny_trainer(
    tiny_base: Base, tiny_contents: Contents, tiny_settings: Callable[..., TrainSettings]
) -> Callable[..., StyleTrainer]:
    """Trainers of one style image; keywords are settings."""

    def build(
        source: ContentSource | None = None, style_image: Tensor | None = None, **settings: Any
    ) -> StyleTrainer:
        picture = make_images(1, seed=8) if style_image is None else style_image
        bank = source or ContentBank(tiny_contents)
        return StyleTrainer(
            tiny_base, picture, make_images(1, seed=9), bank, tiny_settings(**settings)
        )

    return build


@pytest.fixture(scope="session")
def clip_config(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Configuration files of small open_clip models."""
    folder = tmp_path_factory.mktemp("clip")

    def build(name: str, image_size: int = 32, patch_size: int = 8) -> Path:
        path = folder / f"{name}.json"
        vision = {
            "image_size": image_size,
            "patch_size": patch_size,
            "layers": 2,
            "width": 64,
            "head_width": 32,
        }
        text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
        path.write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}))
        return path

    return build


@pytest.fixture(scope="session")
def clip_guide(clip_config: Callable[..., Path]) -> OpenClipGuide:
    """A small open_clip guide with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return open_clip_guide("tests-tiny-clip", None, clip_config("tests-tiny-clip"))

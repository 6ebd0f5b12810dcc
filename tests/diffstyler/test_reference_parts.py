"""Comparison with recorded results of the published code, without the UNet.

The UNet's weights are too large for this repository; test_reference.py compares its predictions and
trainings where they are at hand.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from diffusers import AutoencoderKL
from transformers import CLIPTextModel, CLIPTokenizer

from diffstyler.base import Base, load_schedule
from diffstyler.images import resize
from diffstyler.masks import hard_mask
from diffstyler.passes import Pass
from diffstyler.prompts import embed_prompts, tokenize
from diffstyler.sampling import compose
from diffstyler.schedule import ddim_step
from osasis.images.tensors import from_uint8

FOLDER = Path(__file__).parent / "reference"
PIPELINE = FOLDER / "pipeline"
# Largest difference over the largest recorded value.
ALLOWED = 5e-5


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(FOLDER / "parts.safetensors")


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "parts.json").read_text())
    return found


@pytest.fixture(scope="module")
def recorded(base: Base) -> Base:
    """The recorded pipeline, with the UNet of another."""
    return replace(
        base,
        vae=AutoencoderKL.from_pretrained(PIPELINE / "vae").eval(),
        text_encoder=CLIPTextModel.from_pretrained(PIPELINE / "text_encoder").eval(),
        tokenizer=CLIPTokenizer.from_pretrained(PIPELINE / "tokenizer"),
        schedule=load_schedule(PIPELINE / "scheduler"),
    )


def close(actual: Tensor, expected: Tensor, name: str) -> None:
    assert actual.shape == expected.shape, name
    assert float((actual - expected).abs().max() / expected.abs().max()) <= ALLOWED, name


def test_tokens_and_text(recorded: Base, golden: dict[str, Tensor], facts: dict[str, Any]) -> None:
    embeddings = embed_prompts(recorded, facts["prompts"].values())
    for i, prompt in facts["prompts"].items():
        assert torch.equal(tokenize(recorded, prompt), golden[f"text.{i}.ids"])
        close(embeddings[prompt], golden[f"text.{i}.embedding"], prompt)


def test_pictures_and_masks(golden: dict[str, Tensor], facts: dict[str, Any]) -> None:
    picture = Image.fromarray(golden["input.content"].numpy())
    resized = resize(picture, facts["image_size"], multiple=1)
    own = torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8)
    assert torch.equal(own, golden["input.content_resized"].flatten())
    size = golden["vae.latent"].shape[-2], golden["vae.latent"].shape[-1]
    masks = [key for key in golden if key.startswith("mask.") and key.endswith(".image")]
    assert len(masks) == 4
    for key in masks:
        expected = golden[key.replace(".image", ".latent")].float()
        assert torch.equal(hard_mask(golden[key], size), expected), key


def test_vae(recorded: Base, golden: dict[str, Tensor]) -> None:
    content = from_uint8(golden["input.content_resized"]).permute(2, 0, 1)
    close(recorded.photo_latents(content[None])[0], golden["vae.latent"], "latent")
    decoded = recorded.decode_latents(golden["vae.latent"][None])[0]
    close((decoded + 1) / 2, golden["vae.decoded"], "decoded")


def test_schedule(recorded: Base, golden: dict[str, Tensor], facts: dict[str, Any]) -> None:
    schedule = recorded.schedule
    close(schedule.alphas_cumprod, golden["alphas_cumprod"], "alphas_cumprod")
    for steps, timesteps in facts["inversion"]["short"].items():
        assert list(schedule.timesteps(int(steps))) == timesteps


def recorded_steps(facts: dict[str, Any]) -> list[tuple[str, dict[str, Any], int]]:
    return [(n, c, i) for n, c in facts["cases"].items() for i in c["recorded_steps"]]


def test_steps(recorded: Base, golden: dict[str, Tensor], facts: dict[str, Any]) -> None:
    for case, c, i in recorded_steps(facts):
        key, timesteps = f"{case}.step{i}", c["timesteps"]
        to = timesteps[i + 1] if i + 1 < len(timesteps) else None
        alphas = recorded.schedule.alpha(timesteps[i]), recorded.schedule.alpha(to)
        x = ddim_step(golden[f"{key}.x"], golden[f"{key}.guided"], *alphas)
        close(x, golden[f"{key}.prev"], key)


def test_guidance_and_masks(golden: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """The predictions of all networks give the recorded one."""
    compared = 0
    for case, c, i in recorded_steps(facts):
        key = f"{case}.step{i}"
        if f"{key}.base.eps" not in golden:
            continue
        compared += 1
        indices = (None, *range(len(c["styles"])))
        names = ["base" if n is None else f"lora{n}" for n in indices]
        # Row 0 of the recorded predictions is the source.
        pairs = [golden[f"{key}.{name}.eps"][1:] for name in names]
        masks = [golden[f"mask.{style['mask']}.latent"].float() for style in c["styles"]]
        passes = [Pass(n, "", c["guidance"], 1.0, 0.0, 0.0) for n in indices]
        close(compose(passes, pairs, masks), golden[f"{key}.guided"], key)
    assert compared == 9

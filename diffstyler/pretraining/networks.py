"""The networks of a small Stable Diffusion, and its folder in the diffusers layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from diffstyler.pretraining.settings import Sizes
from diffstyler.pretraining.tokenizer import LENGTH
from osasis.storage import save_tensors, to_float16, write_json

LATENT_CHANNELS = 4
# That of Stable Diffusion 2.1.
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
PIPELINE = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "safety_checker": [None, None],
    "requires_safety_checker": False,
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


def make_vae(sizes: Sizes) -> AutoencoderKL:
    levels = len(sizes.vae_widths)
    return AutoencoderKL(
        sample_size=sizes.image_size,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=sizes.vae_widths,
        layers_per_block=1,
        norm_num_groups=sizes.groups,
        latent_channels=LATENT_CHANNELS,
    )


def make_unet(sizes: Sizes) -> UNet2DConditionModel:
    """The blocks of Stable Diffusion: attention in all levels but the lowest."""
    return UNet2DConditionModel(
        sample_size=sizes.latent_size,
        block_out_channels=sizes.unet_widths,
        layers_per_block=2,
        cross_attention_dim=sizes.text_width,
        # In spite of its name, diffusers takes the number of heads.
        attention_head_dim=tuple(max(1, w // sizes.head_width) for w in sizes.unet_widths),
        norm_num_groups=sizes.groups,
        use_linear_projection=True,
    )


def make_text_encoder(sizes: Sizes, tokens: int) -> CLIPTextModel:
    """tokens: of the tokenizer; the last two are the start and the end of a text."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=tokens,
            hidden_size=sizes.text_width,
            intermediate_size=4 * sizes.text_width,
            num_hidden_layers=sizes.text_layers,
            num_attention_heads=sizes.text_heads,
            max_position_embeddings=LENGTH,
            bos_token_id=tokens - 2,
            eos_token_id=tokens - 1,
            pad_token_id=0,
        )
    )


@dataclass(frozen=True)
class Weights:
    """State dicts of a trained base. scaling_factor: 1 / standard deviation of its latents."""

    unet: Mapping[str, Tensor]
    vae: Mapping[str, Tensor]
    text_encoder: Mapping[str, Tensor]
    scaling_factor: float


def write_pipeline(folder: Path, sizes: Sizes, tokens: int, weights: Weights) -> None:
    """Write a base in the diffusers layout, in float16, beside its tokenizer."""
    with torch.device("meta"):
        networks = {
            "unet": make_unet(sizes),
            "vae": make_vae(sizes),
            "text_encoder": make_text_encoder(sizes, tokens),
        }
    networks["vae"].register_to_config(scaling_factor=weights.scaling_factor)
    for part, network in networks.items():
        config: Any = network.config
        (folder / part).mkdir(parents=True, exist_ok=True)
        if part == "text_encoder":
            write_json(folder / part / "config.json", config.to_dict())
        else:
            network.save_config(folder / part)
        tensors = to_float16(getattr(weights, part))
        save_tensors(folder / part / WEIGHTS[part], tensors, {"format": "pt"})
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_json(folder / "model_index.json", PIPELINE)

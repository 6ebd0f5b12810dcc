"""A tiny Stable Diffusion with random weights: 2x latents, three levels; no downloads."""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from diffstyler.adapter import Adapter, Factors, adapter_layout
from diffstyler.base import Base

SIZE = 32


def write_pipeline(folder: Path, prediction: str = "epsilon") -> Path:
    """Write the pipeline in the diffusers layout."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=SIZE // 2,
            block_out_channels=(8, 16, 16),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            latent_channels=4,
        )
        words = ["!", *(c for c in string.printable[:94] if c != "!")]
        vocabulary = [*words, *(f"{c}</w>" for c in words), "<|startoftext|>", "<|endoftext|>"]
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocabulary),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=77,
                bos_token_id=len(vocabulary) - 2,
                eos_token_id=len(vocabulary) - 1,
            )
        )
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    text.save_pretrained(folder / "text_encoder")
    scheduler = {
        "_class_name": "PNDMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
        "set_alpha_to_one": False,
        "prediction_type": prediction,
    }
    tokenizer = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "!",
    }
    files = {
        "model_index.json": {
            "_class_name": "StableDiffusionPipeline",
            "scheduler": ["diffusers", "PNDMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
        "scheduler/scheduler_config.json": scheduler,
        "tokenizer/tokenizer_config.json": tokenizer,
        "tokenizer/vocab.json": {word: i for i, word in enumerate(vocabulary)},
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    return folder


def random_adapter(base: Base, seed: int, rank: int = 2, size: float = 0.3) -> Adapter:
    """Random factors in every projection."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * size

    return Adapter(
        {
            key: Factors(draw(rank, features), draw(out, rank))
            for key, (out, features) in adapter_layout(base.unet).items()
        }
    )


def picture(seed: int, height: int = SIZE, width: int = SIZE) -> Tensor:
    """A smooth random picture (3, H, W) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, 4, 4), generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]


def half_mask(side: str, height: int = SIZE, width: int = SIZE) -> Tensor:
    """White in the left or right half, uint8 (H, W)."""
    mask = torch.zeros(height, width, dtype=torch.uint8)
    columns = slice(0, width // 2) if side == "left" else slice(width // 2, width)
    mask[:, columns] = 255
    return mask

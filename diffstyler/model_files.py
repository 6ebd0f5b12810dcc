"""Writing a Stable Diffusion in the diffusers layout, as ``load_base`` reads it."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from osasis.storage import write_json

INDEX = {
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
TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


def save_model(
    folder: Path,
    networks: Mapping[str, Any],
    configurations: Path,
    dtype: torch.dtype,
    shard_size: str = "5GB",
) -> None:
    """Write the networks by part, and copy tokenizer and scheduler.

    networks: unet, vae and text_encoder. configurations: a folder with tokenizer and scheduler; may
    be ``folder`` itself. shard_size: larger networks become several files.
    """
    for part, network in networks.items():
        # Conversion in place would change the caller's network; diffusers' own method warns.
        copied = network if network.dtype == dtype else copy.deepcopy(network)
        nn.Module.to(copied, dtype)
        copied.save_pretrained(folder / part, safe_serialization=True, max_shard_size=shard_size)
        config = folder / part / "config.json"
        # The folder that a network was read from is no property of it, and would change hashes.
        kept = {k: v for k, v in json.loads(config.read_text()).items() if k != "_name_or_path"}
        write_json(config, kept)
        # safetensors creates files that only their owner may read.
        for path in (folder / part).glob("*.safetensors"):
            path.chmod(config.stat().st_mode)
    names = [f"tokenizer/{name}" for name in TOKENIZER_FILES]
    for name in (*names, "scheduler/scheduler_config.json"):
        source, target = configurations / name, folder / name
        if source.is_file() and source != target:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    write_json(folder / "model_index.json", INDEX)

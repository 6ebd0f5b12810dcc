"""Networks from a single safetensors file in the original layout of Stable Diffusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from osasis.errors import UserError

# Beginnings of the keys of each network.
PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.",
}
# Beginnings of keys that only other models have.
OTHER_FILES = {
    "conditioner.": "SDXL",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "model.diffusion_model.double_blocks.": "FLUX",
    "double_blocks.": "FLUX",
}
SUPPORTED = "single files of Stable Diffusion 1.x and 2.x, and of fine-tunes of their architecture"

_REMEDY = (
    "download the file again, or name the folder of its own architecture as config; supported are "
    f"{SUPPORTED}"
)


def read_single_file(file: Path, config: Path, dtype: torch.dtype) -> dict[str, Any]:
    """UNet, VAE and text encoder of a file by part, frozen, converted by diffusers.

    config: a folder in the diffusers layout; its weights, if any, are not read. Raises UserError
    for a file that cannot be read, is of another model, or does not belong to the configurations.
    """
    from diffusers import StableDiffusionPipeline

    _check_keys(file)
    try:
        pipeline = StableDiffusionPipeline.from_single_file(
            str(file),
            config=str(config),
            local_files_only=True,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    # Raised where diffusers moves a parameter of the UNet or VAE that the file did not give.
    except NotImplementedError:
        raise UserError(
            f"{file}: lacks weights of the UNet or the VAE that the configurations in {config} "
            f"have; {_REMEDY}"
        ) from None
    # Keys and shapes that the conversion does not know raise errors of many kinds.
    except Exception as e:
        reason = " ".join(f"{type(e).__name__}: {e}".split())[:300]
        raise UserError(
            f"{file}: does not belong to the configurations in {config} ({reason}); {_REMEDY}"
        ) from None
    networks = {part: getattr(pipeline, part) for part in PREFIXES}
    for part, network in networks.items():
        _check_complete(file, config / part, network)
        network.requires_grad_(False).eval()
        # diffusers reads float32, and warns of every other cast.
        if dtype != torch.float32:
            network.to(dtype)
    return networks


def _check_keys(file: Path) -> None:
    """Whether the file has all networks of a Stable Diffusion."""
    try:
        with safe_open(file, framework="pt") as f:
            keys = list(f.keys())
    except (OSError, SafetensorError) as e:
        raise UserError(
            f"{file}: cannot be read as safetensors ({e}); single files are read from safetensors "
            "only; download it again"
        ) from None
    for prefix, model in OTHER_FILES.items():
        if found := [k for k in keys if k.startswith(prefix)]:
            raise UserError(
                f"{file}: the model is {model} (key {found[0]}); supported are {SUPPORTED}"
            )
    for part, prefix in PREFIXES.items():
        if not any(k.startswith(prefix) for k in keys):
            raise UserError(
                f"{file}: no {part} in it (no key begins with {prefix}); a file with the UNet, the "
                f"VAE and the text encoder is needed; supported are {SUPPORTED}"
            )


def _check_complete(file: Path, config: Path, network: torch.nn.Module) -> None:
    """Whether the file gave all parameters: the text encoder's others stay on the meta device."""
    missing = [name for name, value in network.named_parameters() if value.is_meta]
    if missing:
        raise UserError(
            f"{file}: {config.name} key {min(missing)} is missing ({len(missing)} missing in all) "
            f"for {config / 'config.json'}; {_REMEDY}"
        )

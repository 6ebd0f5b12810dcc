"""The base: a Stable Diffusion 1.x or 2.x, read from a folder in the diffusers layout, or from a
single file with the configurations of such a folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffstyler.attention import InjectionSites, find_sites, install
from diffstyler.schedule import Schedule
from diffstyler.single_file import read_single_file
from osasis.arithmetic import autocast
from osasis.errors import UserError

try:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer
    from transformers.utils import logging as transformers_logging
except ImportError as e:
    raise UserError(
        f"DiffStyler needs the package {e.name}: pip install 'style-factory[diffstyler]'"
    ) from e

# Loading takes seconds; a bar for each network would only interrupt a command's own progress.
transformers_logging.disable_progress_bar()

SUPPORTED = "Stable Diffusion 1.x and 2.x, and fine-tunes of their architecture"
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
# Beginnings of pipeline classes that are often taken for a Stable Diffusion.
OTHER_MODELS = {
    "StableDiffusionXL": "SDXL",
    "StableDiffusion3": "Stable Diffusion 3",
    "StableDiffusionInpaint": "an inpainting Stable Diffusion",
    "Flux": "FLUX",
    "PixArt": "PixArt",
    "Kandinsky": "Kandinsky",
}
WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}


@dataclass(frozen=True)
class Base:
    """A frozen Stable Diffusion, whose UNet takes rows of several adapters in one batch.

    The UNet is shared: training and sampling of any number of styles read it and change nothing.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    schedule: Schedule
    sites: InjectionSites

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def latent_factor(self) -> int:
        """Pixels of an image's side per pixel of its latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def image_size(self) -> int:
        """Side in pixels of the images for which the UNet was trained."""
        size = self.unet.config.sample_size
        side = min(size) if isinstance(size, (list, tuple)) else size
        return (side or 64) * self.latent_factor

    def to(self, device: torch.device | str) -> Base:
        """Move the networks in place."""
        for network in (self.unet, self.vae, self.text_encoder):
            network.to(device)
        return self

    @torch.no_grad()
    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the VAE's posterior, float32, not scaled.

        images: (B, 3, H, W) in [-1, 1]. Returns (B, C, H/8, W/8) each.
        """
        with autocast(self.device, "float32"):
            posterior = self.vae.encode(images.to(self.vae.device, self.vae.dtype)).latent_dist
        return posterior.mean.float(), posterior.std.float()

    def photo_latents(self, images: Tensor) -> Tensor:
        """Scaled latents (B, C, H/8, W/8) of images (B, 3, H, W) in [-1, 1]: posterior means."""
        return self.posterior(images)[0] * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] of scaled latents (B, C, h, w)."""
        unscaled = latents / self.vae.config.scaling_factor
        with autocast(self.device, "float32"):
            images = self.vae.decode(unscaled.to(self.vae.device, self.vae.dtype)).sample
        return images.float().clamp(-1, 1)


def load_base(
    path: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    config: Path | None = None,
) -> Base:
    """Load a base from a folder in the diffusers layout or from a single safetensors file.

    dtype: of the weights, float32 or float16. config: for a single file, a folder in the diffusers
    layout, of which the configurations, the tokenizer and the scheduler are read, not the weights;
    its scheduler says what the UNet predicts.
    Raises UserError for a model that is no Stable Diffusion, names another model, is incomplete,
    or whose weights do not have the keys and shapes of their configuration.
    """
    folder = _configurations(path, config)
    _check_pipeline(folder)
    for part in (*WEIGHTS, "tokenizer", "scheduler"):
        if not (folder / part).is_dir():
            raise UserError(
                f"{folder}: no folder {part}; a base is a folder in the diffusers layout with "
                f"{', '.join(WEIGHTS)}, tokenizer and scheduler"
            )
    _check_unet(folder / "unet" / "config.json")
    networks = (
        _load_folder(path, dtype) if config is None else read_single_file(path, folder, dtype)
    )
    _check_sizes(folder, **networks)
    sites = find_sites(networks["unet"])
    install(networks["unet"], sites)
    base = Base(
        **networks,
        tokenizer=_load_tokenizer(folder / "tokenizer", networks["text_encoder"].config.vocab_size),
        schedule=load_schedule(folder / "scheduler"),
        sites=sites,
    )
    return base.to(device)


def _configurations(path: Path, config: Path | None) -> Path:
    """The folder of the configurations: ``config`` for a single file, else the model itself."""
    if config is None and path.is_file():
        raise UserError(
            f"{path}: a single file has no configurations, tokenizer and scheduler; name a folder "
            "in the diffusers layout that has those of its architecture as config"
        )
    if config is not None and path.is_dir():
        raise UserError(
            f"config is {config}, but {path} is a folder, which has its own configurations; leave "
            "config out"
        )
    return path if config is None else config


def _load_folder(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """The networks of a folder by part."""
    return {
        "unet": _load(UNet2DConditionModel, folder, "unet", torch_dtype=dtype),
        "vae": _load(AutoencoderKL, folder, "vae", torch_dtype=dtype),
        "text_encoder": _load(CLIPTextModel, folder, "text_encoder", dtype=dtype),
    }


def _check_pipeline(folder: Path) -> None:
    path = folder / "model_index.json"
    if not path.is_file():
        raise UserError(
            f"{folder}: not a model in the diffusers layout (model_index.json is missing); "
            f"supported are {SUPPORTED}"
        )
    name = str(_read_json(path).get("_class_name", ""))
    if name not in PIPELINES:
        known = [label for start, label in OTHER_MODELS.items() if name.startswith(start)]
        model = f"{known[0]} ({name})" if known else f"a {name or 'model without a class name'}"
        raise UserError(f"{path}: the model is {model}; supported are {SUPPORTED}")


def _check_unet(path: Path) -> None:
    """Refuse UNets whose inputs are more than a latent, a timestep and a text."""
    config = _read_json(path)
    expected: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": 4,
        "out_channels": 4,
        "addition_embed_type": None,
        "class_embed_type": None,
        "num_class_embeds": None,
    }
    for field, value in expected.items():
        if config.get(field, value) != value:
            hint = " (SDXL)" if config[field] == "text_time" else ""
            raise UserError(
                f"{path}: {field} is {config[field]!r}{hint}, not {value!r}; "
                f"supported are {SUPPORTED}"
            )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: cannot be read as JSON ({e}); download the model again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a JSON object; download the model again")
    return found


def _load(network: Any, folder: Path, part: str, **dtype: torch.dtype) -> Any:
    """One frozen network, from the file without a variant or else from the float16 one."""
    stem = WEIGHTS[part]
    found = [v for v in (None, "fp16") if list((folder / part).glob(_pattern(stem, v)))]
    if not found:
        raise UserError(
            f"{folder / part}: no {stem}.safetensors; weights are read from safetensors only, so "
            "save the model with safe_serialization=True"
        )
    try:
        loaded, report = network.from_pretrained(
            folder / part,
            variant=found[0],
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **dtype,
        )
    except (OSError, ValueError, RuntimeError) as e:
        raise UserError(f"{folder / part}: {_first_line(e)}; download the model again") from None
    # Older CLIP files store their position ids, which the network makes itself.
    unexpected = [k for k in report["unexpected_keys"] if not k.endswith("position_ids")]
    for kind, keys in (("missing", report["missing_keys"]), ("unknown", unexpected)):
        if keys:
            raise UserError(
                f"{folder / part}: key {min(keys)} is {kind} ({len(keys)} {kind} in all); the "
                f"weights do not belong to config.json; supported are {SUPPORTED}"
            )
    return loaded.requires_grad_(False).eval()


def _load_tokenizer(folder: Path, vocabulary: int) -> CLIPTokenizer:
    """vocabulary: number of tokens that the text encoder knows."""
    if not (folder / "tokenizer.json").is_file():
        for name in ("vocab.json", "merges.txt"):
            if not (folder / name).is_file():
                raise UserError(f"{folder / name}: is missing; download the model again")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    # The library tokenizers raises plain Exceptions.
    except Exception as e:
        raise UserError(f"{folder}: {_first_line(e)}; download the model again") from None
    if len(tokenizer) > vocabulary:
        raise UserError(
            f"{folder}: it has {len(tokenizer)} tokens, the text encoder's vocab_size is "
            f"{vocabulary}; the parts are of different models"
        )
    return tokenizer


def _pattern(stem: str, variant: str | None) -> str:
    """Pattern of a weights file or of the index of its shards."""
    return f"{stem}{'.' + variant if variant else ''}.safetensors*"


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _check_sizes(folder: Path, unet: Any, vae: Any, text_encoder: Any) -> None:
    """Whether the three networks belong together."""
    context, text = unet.config.cross_attention_dim, text_encoder.config.hidden_size
    if context != text:
        raise UserError(
            f"{folder}: the UNet's cross_attention_dim is {context}, the text encoder's "
            f"hidden_size {text}; they must be equal: the parts are of different models"
        )
    channels, latent = unet.config.in_channels, vae.config.latent_channels
    if channels != latent:
        raise UserError(
            f"{folder}: the UNet's in_channels is {channels}, the VAE's latent_channels {latent}; "
            "they must be equal: the parts are of different models"
        )


def load_schedule(folder: Path) -> Schedule:
    """The schedule, from the configuration of any of diffusers' schedulers."""
    config = _read_json(folder / "scheduler_config.json")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise UserError(
            f"{folder / 'scheduler_config.json'}: prediction_type is {prediction!r}; supported are "
            "epsilon and v_prediction"
        )
    names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    try:
        scheduler = DDIMScheduler(
            **{name: config[name] for name in names if name in config},
            rescale_betas_zero_snr=config.get("rescale_betas_zero_snr", False),
            set_alpha_to_one=config.get("set_alpha_to_one", False),
        )
    except (NotImplementedError, TypeError, ValueError, RuntimeError) as e:
        raise UserError(
            f"{folder / 'scheduler_config.json'}: {_first_line(e)}; download the model again"
        ) from None
    return Schedule(
        scheduler.alphas_cumprod,
        float(scheduler.final_alpha_cumprod),
        config.get("steps_offset", 1),
        prediction,
    )

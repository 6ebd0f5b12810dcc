"""The tiny base of the tests: sizes, random weights, pictures, and files to import."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import lpips
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from osasis.bundles.base import Base, load_base
from osasis.bundles.style import Style, save_style
from osasis.contents import CHUNK, ContentBank, bank_chunk, bank_photos
from osasis.images.tensors import image_to_tensor
from osasis.networks.checkpoint_keys import to_official
from osasis.networks.diffae import DiffAE
from osasis.networks.sizes import DiffAEConfig
from osasis.networks.spn import StructurePreservingNetwork
from osasis.networks.style_predictor import StylePredictor
from osasis.predictor import style_features
from osasis.settings import TrainSettings, make_settings
from osasis.storage import save_tensors

SIZE = 32
PHOTOS = 12
CONFIG = DiffAEConfig(
    name="tiny",
    image_size=SIZE,
    model_channels=8,
    channel_mult=(1, 2, 2),
    encoder_channel_mult=(1, 2, 2),
    num_res_blocks=1,
    attention_resolutions=(8,),
    embed_channels=32,
    z_channels=16,
    latent_layers=3,
    latent_hidden=32,
)
# Overrides of preset `default` with few steps.
FEW: dict[str, Any] = {
    "iterations": 2,
    "batch_size": 2,
    "lr_unet": 1e-3,
    "encode_solver": "ddim",
    "encode_steps": 10,
    "decode_steps": 4,
    "latent_steps": 10,
    "counterpart_candidates": 2,
    "counterpart_steps": 10,
    "bank_size": 8,
    "checkpoint_every": 1,
    "stylize_encode_steps": 10,
    "stylize_decode_steps": 4,
}


def random_state(
    module: torch.nn.Module, seed: int, gain: float = 1.0, bias: float = 0.1
) -> dict[str, Tensor]:
    """A nonzero random state, drawn key by key so that it depends only on seed and layout.

    Matrices and kernels are normal with deviation gain / sqrt(fan in). Vectors have deviation
    ``bias`` around 0, or around 1 for the weights of norms.
    """
    rng = np.random.RandomState(seed)
    state = {}
    for key, value in sorted(module.state_dict().items()):
        noise = torch.from_numpy(rng.standard_normal(tuple(value.shape))).float()
        if value.dim() > 1:
            state[key] = gain * noise / value[0].numel() ** 0.5
        else:
            state[key] = bias * noise + (1.0 if key.endswith("weight") else 0.0)
    return state


def tiny_diffae(config: DiffAEConfig = CONFIG) -> dict[str, Tensor]:
    """The tiny base's diffusion autoencoder."""
    diffae = random_state(DiffAE(config), seed=7)
    # With one channel per group, the means of normalised features hardly differ. Amplified, so that
    # different pictures have clearly different z.
    diffae["encoder.out.3.weight"] *= 30
    # Small noise predictions, so that x_0 is rarely clamped.
    diffae["unet.out.2.weight"] *= 0.3
    return diffae


def z_statistics() -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of z, (D,) each."""
    channels = CONFIG.z_channels
    return torch.linspace(-0.5, 0.5, channels), torch.linspace(0.5, 1.5, channels)


def make_perceptual_file(path: Path, net: str = "alex") -> Path:
    """Write a random LPIPS state with positive linear layers, as trained ones have."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(11)
        model = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    state = {k: v.abs() if k.startswith("lin") else v for k, v in model.state_dict().items()}
    save_tensors(path, {k: v.clone() for k, v in state.items()})
    return path


def picture(seed: int, size: tuple[int, int] = (40, 40)) -> Image.Image:
    """A smooth random picture of this width and height."""
    coarse = np.random.RandomState(seed).randint(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def truncated_jpeg(path: Path, seed: int = 99) -> Path:
    """A JPEG file whose second half is missing."""
    picture(seed, (64, 64)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def write_sources(folder: Path) -> None:
    """Write the inputs of ``base import``: configuration, checkpoint, LPIPS weights, photos."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.json").write_text(json.dumps(CONFIG.to_dict()))
    mean, std = z_statistics()
    official = {k: v.clone() for k, v in to_official(tiny_diffae()).items()}
    save_tensors(folder / "diffae.safetensors", {**official, "conds_mean": mean, "conds_std": std})
    make_perceptual_file(folder / "alex.safetensors")
    (folder / "photos").mkdir()
    for i in range(PHOTOS):
        picture(i).save(folder / "photos" / f"{i:02d}.png")


def random_style(
    base: Base, style_id: str, seed: int, images: Tensor, settings: TrainSettings
) -> Style:
    """A style with random differences from the base. images: style image and counterpart."""
    target = random_state(base.diffae.unet, seed)
    source = dict(base.diffae.unet.named_parameters())
    delta = {k: 0.2 * (v - source[k]) for k, v in target.items()}
    spn = random_state(StructurePreservingNetwork(), seed + 1)
    z = base.encode_z(images)
    return Style(style_id, delta, spn, z[:1], z[1:], settings, {"base": base.fingerprint})


def write_style(folder: Path, base_folder: Path, style_id: str, seed: int = 21) -> Style:
    """Write and return a style with random differences from the base."""
    base = load_base(base_folder)
    image = image_to_tensor(picture(seed, (SIZE, SIZE)))
    images = torch.stack([image, -image])
    style = random_style(base, style_id, seed, images, make_settings("default", **FEW))
    save_style(folder, style, image, -image)
    return style


def random_predictor(base: Base, seed: int = 5) -> StylePredictor:
    """A style predictor with random weights, whose styles differ clearly."""
    features = style_features(base, torch.zeros(1, 3, SIZE, SIZE), torch.ones(1, 3, SIZE, SIZE))
    shapes = {k: p.shape for k, p in base.diffae.unet.named_parameters()}
    predictor = StylePredictor(shapes, len(features), components=6, rank=2, shared=1)
    state = random_state(predictor, seed, gain=0.3)
    state["feature_mean"] = features
    for layer in (0, 2, 4):
        state[f"network.{layer}.weight"] *= 5
    predictor.load_state_dict(state)
    return predictor.requires_grad_(False)


def with_predictor(base: Base, predictor: StylePredictor) -> Base:
    return base.replace(predictor=predictor, predictor_fingerprint="tiny")


def build_bank(base: Base, settings: TrainSettings) -> ContentBank:
    """Build a content bank in this process."""
    photos = bank_photos(base)
    size = settings.bank_size if photos is None else min(settings.bank_size, len(photos))
    return ContentBank(
        *(
            bank_chunk(base, settings, start, photos).take(slice(size - start))
            for start in range(0, size, CHUNK)
        )
    )

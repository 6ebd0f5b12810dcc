"""Bases and styles of the speed benchmark."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from osasis.bundles.base import Base, frozen, load_base
from osasis.bundles.files import shipped_bases
from osasis.bundles.style import Style
from osasis.guides.guide import open_clip_guide
from osasis.guides.perceptual import PerceptualNet
from osasis.networks.adapters import Change, LowRank
from osasis.networks.diffae import DiffAE
from osasis.networks.sizes import load_config
from osasis.networks.spn import StructurePreservingNetwork
from osasis.settings import make_settings
from tests.tiny import make_perceptual_file, random_state


def random_base(size: str) -> Base:
    """The shipped base of this name, or random weights in the layout of a packaged configuration.

    The guide is then an open_clip ViT-B-32, and the perceptual net LPIPS with VGG.
    """
    if size in shipped_bases():
        return load_base(shipped_bases()[size])
    config = load_config(size)
    diffae = DiffAE(config)
    diffae.load_state_dict(random_state(diffae, seed=7, gain=0.5))
    with tempfile.TemporaryDirectory() as folder:
        file = make_perceptual_file(Path(folder) / "vgg.safetensors", "vgg")
        perceptual = frozen(PerceptualNet("vgg", file))
    guide = open_clip_guide("ViT-B-32", None)
    z = torch.zeros(config.z_channels)
    return Base(config, frozen(diffae), z, z + 1, guide, perceptual)


def random_styles(base: Base, count: int, rank: int | None = None) -> list[Style]:
    """Styles that share one random difference: ``peak_mib`` contains it once."""
    settings = make_settings("default")

    def change(p: Tensor) -> Change:
        if rank is None or p.dim() < 2:
            return 1e-3 * torch.randn_like(p)
        up, down = torch.randn(len(p), rank), torch.randn(rank, *p.shape[1:])
        return LowRank(1e-3 * up.to(p.device), down.to(p.device))

    delta = {k: change(p) for k, p in base.diffae.unet.named_parameters()}
    spn = StructurePreservingNetwork().to(base.device).state_dict()
    z = torch.randn(2, base.config.z_channels, device=base.device)
    return [Style(f"style-{i}", delta, spn, z[:1], z[1:], settings) for i in range(count)]

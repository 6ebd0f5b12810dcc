"""The diffusion autoencoder: UNet, semantic encoder and latent denoiser."""

from __future__ import annotations

from torch import nn

from osasis.networks.encoder import SemanticEncoder
from osasis.networks.latent import LatentNet
from osasis.networks.sizes import DiffAEConfig
from osasis.networks.unet import UNet


class DiffAE(nn.Module):
    """The three networks of a base (DiffAE, CVPR 2022)."""

    def __init__(self, config: DiffAEConfig) -> None:
        super().__init__()
        self.unet = UNet(config.unet)
        self.encoder = SemanticEncoder(config)
        self.latent_net = LatentNet(config)

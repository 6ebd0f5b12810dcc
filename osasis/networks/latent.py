"""The latent DDIM's denoiser: an MLP with skip concatenation over z."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from osasis.networks.blocks import timestep_embedding
from osasis.networks.sizes import DiffAEConfig

TIME_CHANNELS = 64


class LatentLayer(nn.Module):
    """Linear layer, scaled by 1 + time, layer norm, SiLU; the last layer is only linear."""

    def __init__(self, in_channels: int, out_channels: int, z_channels: int, last: bool) -> None:
        super().__init__()
        self.last = last
        self.linear = nn.Linear(in_channels, out_channels)
        if not last:
            # Official checkpoints store this layer under two names; see checkpoint_keys.py.
            self.linear_emb = nn.Linear(z_channels, out_channels)
            self.norm = nn.LayerNorm(out_channels)
            self.act = nn.SiLU()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = self.linear(x)
        if self.last:
            return x
        return self.act(self.norm(x * (1 + self.linear_emb(self.act(time)))))


class LatentNet(nn.Module):
    """Noise predictor in the normalised z space (DiffAE, Sec. 3.5 and Appendix A).

    forward: z_t (B, D), t (B,) in 0..999 -> (B, D).
    """

    def __init__(self, config: DiffAEConfig) -> None:
        super().__init__()
        c = config
        self.time_embed = nn.Sequential(
            nn.Linear(TIME_CHANNELS, c.z_channels),
            nn.SiLU(),
            nn.Linear(c.z_channels, c.z_channels),
        )
        last = c.latent_layers - 1
        self.layers = nn.ModuleList(
            LatentLayer(
                c.z_channels if i == 0 else c.latent_hidden + c.z_channels,
                c.z_channels if i == last else c.latent_hidden,
                c.z_channels,
                last=i == last,
            )
            for i in range(c.latent_layers)
        )

    def forward(self, z_t: Tensor, t: Tensor) -> Tensor:
        time = self.time_embed(timestep_embedding(t, TIME_CHANNELS))
        h = self.layers[0](z_t, time)
        for layer in list(self.layers)[1:]:
            h = layer(torch.cat([h, z_t], dim=1), time)
        return h

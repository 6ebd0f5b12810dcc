"""The UNet of the ADM family: the DiffAE's noise predictor and the guided-diffusion prior."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from osasis.diffusion import linear_alphas_cumprod
from osasis.networks.blocks import (
    AttentionBlock,
    BlockSequence,
    GroupNorm32,
    ResBlock,
    encoder_blocks,
    timestep_embedding,
    zeroed,
)
from osasis.networks.sizes import UNetConfig


class UNet(nn.Module):
    """Noise predictor eps(x_t, t, z).

    The prior is the same network without z (``z_channels`` None) and with six output channels
    (eps and the variance interpolation of Improved DDPM).

    ``input_levels`` and ``output_levels`` name each block's resolution level (0 is the finest);
    mixing conditions the levels differently (OSASIS, Sec. 3.4: f_ch).
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        c = config
        time_embed = nn.Sequential(
            nn.Linear(c.model_channels, c.embed_channels),
            nn.SiLU(),
            nn.Linear(c.embed_channels, c.embed_channels),
        )
        # The keys of DiffAE checkpoints have one more level here.
        has_z = c.z_channels is not None
        self.time_embed = nn.ModuleDict({"time_embed": time_embed}) if has_z else time_embed
        res = partial(ResBlock, time_channels=c.embed_channels, z_channels=c.z_channels)
        attention = partial(AttentionBlock, heads=c.heads, head_channels=c.head_channels)
        self.input_blocks, self.input_levels, skips, ch = encoder_blocks(c, res, attention)
        self.middle_block = BlockSequence(res(ch, ch), attention(ch), res(ch, ch))
        self.output_blocks = nn.ModuleList()
        self.output_levels: list[int] = []
        resolution = c.image_size >> (len(c.channel_mult) - 1)
        for level, mult in reversed(list(enumerate(c.channel_mult))):
            for i in range(c.num_res_blocks + 1):
                layers: list[nn.Module] = [res(ch + skips.pop(), mult * c.model_channels)]
                ch = mult * c.model_channels
                if resolution in c.attention_resolutions:
                    layers.append(attention(ch))
                if level and i == c.num_res_blocks:
                    layers.append(res(ch, ch, resample="up"))
                    resolution *= 2
                self.output_blocks.append(BlockSequence(*layers))
                self.output_levels.append(level)
        self.out = nn.Sequential(
            GroupNorm32(ch), nn.SiLU(), zeroed(nn.Conv2d(ch, c.out_channels, 3, padding=1))
        )

    def forward(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """Predict the noise of x at the original timesteps t.

        x: (B, 3, H, W). t: (B,) in 0..999. z: (B, D), or (B, levels + 1, D) with one condition for
        each resolution level (finest first), then that of the middle block.
        Returns (B, out_channels, H, W).
        """
        output = self.raw(x, t, z)
        return output if self.config.prediction == "eps" else noise_of_velocity(output, x, t)

    def raw(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """Output of the last layer: the noise, or v where ``prediction`` is "v"."""
        layers: nn.Module = self.time_embed
        if isinstance(layers, nn.ModuleDict):
            layers = layers["time_embed"]
        emb = layers(timestep_embedding(t, self.config.model_channels))
        z_at = _level_conditions(z, len(self.config.channel_mult))
        h, skips = x, []
        for block, level in zip(self.input_blocks, self.input_levels, strict=True):
            h = block(h, emb, z_at(level))
            skips.append(h)
        h = self.middle_block(h, emb, z_at(-1))
        for block, level in zip(self.output_blocks, self.output_levels, strict=True):
            h = block(torch.cat([h, skips.pop()], dim=1), emb, z_at(level))
        return self.out(h)


def noise_of_velocity(v: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The noise that a velocity implies: sqrt(1 - a) x_t + sqrt(a) v, with a = alpha_bar(t).

    v = sqrt(a) eps - sqrt(1 - a) x_0 (Salimans and Ho, 2022, Appendix D). float32.
    """
    a = alpha_bars(x_t.device)[t.long()].view(-1, 1, 1, 1)
    return (1 - a).sqrt() * x_t.float() + a.sqrt() * v.float()


@lru_cache(maxsize=8)
def alpha_bars(device: torch.device) -> Tensor:
    """alpha_bar of the 1000 timesteps, (1000,) float32 on a device."""
    return torch.from_numpy(linear_alphas_cumprod()).float().to(device)


def _level_conditions(z: Tensor | None, levels: int) -> Callable[[int], Tensor | None]:
    if z is None or z.dim() == 2:
        return lambda level: z
    if z.shape[1] != levels + 1:
        raise ValueError(f"z has {z.shape[1]} level conditions; {levels + 1} are needed")
    return lambda level: z[:, level]

"""Building blocks of the DiffAE UNet, its encoder and the photo prior.

Module and parameter names are those of the official checkpoints, which load key by key.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osasis.networks.sizes import UNetConfig


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding (cosines, then sines) of timesteps.

    t: (B,) integer or float. Returns (B, dim) float32; dim must be even.
    """
    half = dim // 2
    freqs = torch.exp(
        -math.log(10_000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half
    )
    angles = t[:, None].float() * freqs[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


class GroupNorm32(nn.GroupNorm):
    """Group norm with min(32, channels) groups, accumulated in float32 for every input type."""

    def __init__(self, channels: int) -> None:
        super().__init__(min(32, channels), channels)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            if x.device.type == "cuda":
                # A float32 copy of x would be kept for the backward pass. The CPU's kernel for half
                # precision is the slower one there: its backward pass with channels last.
                weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
                return F.group_norm(x, self.num_groups, weight, bias, self.eps)
            return super().forward(x.float()).to(x.dtype)


class ResBlock(nn.Module):
    """Residual block of the ADM family, conditioned on the timestep and on z.

    The normalised features are modulated by the timestep, ``h * (1 + scale_t) + shift_t``, and
    then by z, ``h * (1 + scale_z)`` (DiffAE, Eq. 7). Without ``time_channels`` (semantic encoder)
    the block has no second half.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        time_channels: int | None,
        z_channels: int | None = None,
        resample: str | None = None,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.in_layers = nn.Sequential(
            GroupNorm32(in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.has_time = time_channels is not None
        self.has_z = z_channels is not None
        if time_channels is not None:
            self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_channels, 2 * out_channels))
            if z_channels is not None:
                self.cond_emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(z_channels, out_channels))
            self.out_layers = nn.Sequential(
                GroupNorm32(out_channels),
                nn.SiLU(),
                nn.Dropout(0.0),
                zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
            )
        self.skip_connection: nn.Module = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor, emb: Tensor | None, z: Tensor | None) -> Tensor:
        h = self.in_layers[1](self.in_layers[0](x))
        if self.resample is not None:
            h, x = resampled(h, self.resample), resampled(x, self.resample)
        h = self.in_layers[2](h)
        if self.has_time:
            h = self._modulated(h, emb, z)
        return self.skip_connection(x) + h

    def _modulated(self, h: Tensor, emb: Tensor | None, z: Tensor | None) -> Tensor:
        norm, act, drop, conv = self.out_layers
        scale, shift = self.emb_layers(emb).to(h.dtype)[..., None, None].chunk(2, dim=1)
        h = norm(h) * (1 + scale) + shift
        if self.has_z:
            h = h * (1 + self.cond_emb_layers(z).to(h.dtype)[..., None, None])
        return conv(drop(act(h)))


class AttentionBlock(nn.Module):
    """Self-attention over positions; the heads are split before q, k and v."""

    def __init__(self, channels: int, heads: int = 1, head_channels: int | None = None) -> None:
        super().__init__()
        self.heads = heads if head_channels is None else channels // head_channels
        self.norm = GroupNorm32(channels)
        self.qkv = nn.Conv1d(channels, channels * 3, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        flat = x.reshape(b, c, height * width)
        qkv = self.qkv(self.norm(flat))
        # (B, heads, 3 * head_channels, N): each head holds its own q, k, v.
        q, k, v = qkv.reshape(b, self.heads, -1, height * width).transpose(2, 3).chunk(3, dim=-1)
        h = F.scaled_dot_product_attention(q, k, v)
        h = self.proj_out(h.transpose(2, 3).reshape(b, c, height * width))
        return (flat + h).reshape(b, c, height, width)


def zeroed(module: nn.Module) -> nn.Module:
    """Set a module's parameters to zero, so that a residual block starts as the identity (ADM)."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def resampled(x: Tensor, direction: str) -> Tensor:
    """Halve (average) or double (nearest) the resolution of (B, C, H, W)."""
    if direction == "down":
        return F.avg_pool2d(x, 2)
    return F.interpolate(x, scale_factor=2, mode="nearest")


def encoder_blocks(
    c: UNetConfig,
    res: Callable[..., ResBlock],
    attention: Callable[[int], AttentionBlock],
) -> tuple[nn.ModuleList, list[int], list[int], int]:
    """The downsampling half of a UNet.

    res: builds a block from its input and output channels. attention: from its channels.
    Returns the blocks, the resolution level and the output channels of each, and the last channels.
    """
    ch = c.model_channels * c.channel_mult[0]
    blocks: list[nn.Module] = [BlockSequence(nn.Conv2d(3, ch, 3, padding=1))]
    levels, skips, resolution = [0], [ch], c.image_size
    for level, mult in enumerate(c.channel_mult):
        for _ in range(c.num_res_blocks):
            layers: list[nn.Module] = [res(ch, mult * c.model_channels)]
            ch = mult * c.model_channels
            if resolution in c.attention_resolutions:
                layers.append(attention(ch))
            blocks.append(BlockSequence(*layers))
            levels.append(level)
            skips.append(ch)
        if level != len(c.channel_mult) - 1:
            resolution //= 2
            blocks.append(BlockSequence(res(ch, ch, resample="down")))
            levels.append(level + 1)
            skips.append(ch)
    return nn.ModuleList(blocks), levels, skips, ch


class BlockSequence(nn.Sequential):
    """Sequence that passes the timestep embedding and z to its residual blocks."""

    def forward(self, x: Tensor, emb: Tensor | None = None, z: Tensor | None = None) -> Tensor:
        for layer in self:
            x = layer(x, emb, z) if isinstance(layer, ResBlock) else layer(x)
        return x

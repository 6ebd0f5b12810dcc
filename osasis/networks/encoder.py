"""The semantic encoder: the encoder half of a UNet without time, average pooling, projection."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from osasis.networks.blocks import (
    AttentionBlock,
    BlockSequence,
    GroupNorm32,
    ResBlock,
    encoder_blocks,
)
from osasis.networks.sizes import DiffAEConfig


class SemanticEncoder(nn.Module):
    """z = Enc(x) (DiffAE, Sec. 3.2). x: (B, 3, H, W) in [-1, 1] -> z: (B, D)."""

    def __init__(self, config: DiffAEConfig) -> None:
        super().__init__()
        sizes = replace(config.unet, channel_mult=config.encoder_channel_mult)
        res = partial(ResBlock, time_channels=None)
        attention = partial(AttentionBlock, heads=config.heads)
        self.input_blocks, _, _, ch = encoder_blocks(sizes, res, attention)
        self.middle_block = BlockSequence(res(ch, ch), attention(ch), res(ch, ch))
        self.out = nn.Sequential(
            GroupNorm32(ch),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d((1, 1)),
            nn.Conv2d(ch, config.z_channels, 1),
            nn.Flatten(),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for block in self.input_blocks:
            h = block(h)
        return self.out(self.middle_block(h))

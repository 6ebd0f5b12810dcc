"""The semantic encoder: the encoder half of a UNet without time, average pooling, projection."""

from __future__ import annotations

from torch import Tensor, nn

from osasis.networks.blocks import AttentionBlock, BlockSequence, GroupNorm32, ResBlock
from osasis.networks.sizes import EncoderConfig


class SemanticEncoder(nn.Module):
    """z = Enc(x) (DiffAE, Sec. 3.2). x: (B, 3, H, W) in [-1, 1] -> z: (B, D)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        c = config
        ch = c.model_channels * c.channel_mult[0]
        blocks: list[nn.Module] = [BlockSequence(nn.Conv2d(3, ch, 3, padding=1))]
        resolution = c.image_size
        for level, mult in enumerate(c.channel_mult):
            for _ in range(c.num_res_blocks):
                layers: list[nn.Module] = [
                    ResBlock(ch, mult * c.model_channels, time_channels=None)
                ]
                ch = mult * c.model_channels
                if resolution in c.attention_resolutions:
                    layers.append(AttentionBlock(ch, c.heads))
                blocks.append(BlockSequence(*layers))
            if level != len(c.channel_mult) - 1:
                resolution //= 2
                blocks.append(BlockSequence(ResBlock(ch, ch, time_channels=None, resample="down")))
        self.input_blocks = nn.ModuleList(blocks)
        self.middle_block = BlockSequence(
            ResBlock(ch, ch, time_channels=None),
            AttentionBlock(ch, c.heads),
            ResBlock(ch, ch, time_channels=None),
        )
        self.out = nn.Sequential(
            GroupNorm32(ch),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d((1, 1)),
            nn.Conv2d(ch, c.z_channels, 1),
            nn.Flatten(),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for block in self.input_blocks:
            h = block(h)
        return self.out(self.middle_block(h))

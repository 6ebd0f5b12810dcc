"""The structure-preserving network (OSASIS, Sec. 3.3, Eq. 12-14)."""

from __future__ import annotations

from torch import Tensor, nn

from osasis.networks.blocks import timestep_embedding

EMBED = 512
TIME_CHANNELS = 128


class SPNBlock(nn.Module):
    """Two 1x1 convolutions with a time-conditioned scale and shift between them."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.pre_layer = nn.Sequential(
            nn.GroupNorm(32, in_channels),
            nn.SiLU(),
            nn.Conv2d(in_channels, out_channels, 1),
            nn.GroupNorm(32, out_channels),
        )
        self.post_layer = nn.Sequential(nn.SiLU(), nn.Conv2d(out_channels, out_channels, 1))
        self.emb_layer = nn.Sequential(nn.SiLU(), nn.Linear(EMBED, 2 * out_channels))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.modulated(self.pre_layer(x), emb)

    def modulated(self, h: Tensor, emb: Tensor) -> Tensor:
        """The time-conditioned second half. h: output of ``pre_layer``; emb: (B, EMBED)."""
        scale, shift = self.emb_layer(emb)[..., None, None].chunk(2, dim=1)
        return self.post_layer(h * (1 + scale) + shift)


class StructurePreservingNetwork(nn.Module):
    """Predicts the structure term that is added to x_t at every denoising step.

    forward: photo (B, 3, H, W) in [-1, 1], step (B,) -> (B, 3, H, W), without lambda_SPN.
    """

    def __init__(self) -> None:
        super().__init__()
        self.in_layer = nn.Sequential(nn.Conv2d(3, 128, 1))
        self.block1 = SPNBlock(128, 256)
        self.block2 = SPNBlock(256, 128)
        self.out_layer = nn.Sequential(nn.Conv2d(128, 3, 1))
        self.time_embed = nn.Sequential(
            nn.Linear(TIME_CHANNELS, EMBED), nn.SiLU(), nn.Linear(EMBED, EMBED)
        )

    def forward(self, photo: Tensor, step: Tensor) -> Tensor:
        return self.at(self.features(photo), step)

    def features(self, photo: Tensor) -> Tensor:
        """The step-independent part, a fifth of the computation. Returns (B, 256, H, W)."""
        return self.block1.pre_layer(self.in_layer(photo))

    def at(self, features: Tensor, step: Tensor) -> Tensor:
        """``forward`` from ``features`` of a photo, at a step (B,)."""
        emb = self.time_embed(timestep_embedding(step, TIME_CHANNELS))
        return self.out_layer(self.block2(self.block1.modulated(features, emb), emb))

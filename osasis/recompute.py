"""Training in less memory: activations are computed again in the backward pass.

Applied to a trainer from outside; parameters, their names and, on a CPU, every bit of the result
stay the same (Chen et al., 2016, arXiv 1604.06174).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from osasis.networks.blocks import BlockSequence
from osasis.networks.spn import StructurePreservingNetwork
from osasis.networks.unet import UNet


class RecomputedSequence(BlockSequence):
    """A sequence that keeps only its inputs for the backward pass."""

    def forward(self, *inputs: Any) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return super().forward(*inputs)
        return checkpoint(super().forward, *inputs, use_reentrant=False)


def recompute_activations(unet: UNet, spn: StructurePreservingNetwork) -> None:
    """Replace the blocks of both networks by ones that keep only their inputs."""
    for blocks in (unet.input_blocks, unet.output_blocks):
        for i, block in enumerate(blocks):
            blocks[i] = RecomputedSequence(*block.children())
    unet.middle_block = RecomputedSequence(*unet.middle_block.children())
    for block in (spn.block1, spn.block2):
        block.pre_layer = RecomputedSequence(*block.pre_layer.children())
        block.post_layer = RecomputedSequence(*block.post_layer.children())

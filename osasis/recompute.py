"""Training in less memory: activations are computed again in the backward pass.

Applied to a trainer from outside; parameters, their names and, on a CPU, every bit of the result
stay the same (Chen et al., 2016, arXiv 1604.06174).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
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
    for parent, name in _places(unet, spn):
        setattr(parent, name, RecomputedSequence(*parent.get_submodule(name).children()))


def recomputed_blocks(unet: UNet, spn: StructurePreservingNetwork) -> list[nn.Module]:
    """The blocks that ``recompute_activations`` replaces, in the order of their computation."""
    return [parent.get_submodule(name) for parent, name in _places(unet, spn)]


def _places(unet: UNet, spn: StructurePreservingNetwork) -> list[tuple[nn.Module, str]]:
    """Parents of the blocks, and the blocks' names in them."""
    layers = ("pre_layer", "post_layer")
    spn_blocks = [(block, layer) for block in (spn.block1, spn.block2) for layer in layers]
    inputs = [(unet.input_blocks, str(i)) for i in range(len(unet.input_blocks))]
    outputs = [(unet.output_blocks, str(i)) for i in range(len(unet.output_blocks))]
    return [*spn_blocks, *inputs, (unet, "middle_block"), *outputs]

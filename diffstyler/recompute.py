"""Training with less memory: activations of the UNet's blocks are computed again backwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffstyler.attention import current_plan, row_plan


@contextlib.contextmanager
def recomputed_activations(unet: Any) -> Iterator[None]:
    """Forward passes inside the block keep the inputs of the UNet's blocks only.

    The UNet is as before afterwards, so that other trainings can share it.
    """
    unet.enable_gradient_checkpointing(_checkpointed)
    try:
        yield
    finally:
        unet.disable_gradient_checkpointing()


def _checkpointed(block: nn.Module, *inputs: Any) -> Tensor:
    """The block's output. The backward pass may run in another thread, which has no row plan."""
    plan = current_plan()

    def compute(*again: Any) -> Tensor:
        with contextlib.nullcontext() if plan is None else row_plan(plan):
            output: Tensor = block(*again)
        return output

    found: Tensor = checkpoint(compute, *inputs, use_reentrant=False)
    return found

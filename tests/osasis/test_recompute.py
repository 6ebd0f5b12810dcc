"""Training with recomputed activations: the same weights from less saved memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from osasis.train import StyleTrainer


def saved_bytes(trainer: StyleTrainer) -> int:
    """Bytes that one iteration keeps for the backward pass, in all of its steps."""
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.nbytes
        return tensor.detach()

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        trainer.step()
    return total


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_recomputed_activations_give_the_same_weights(
    tiny_trainer: Callable[..., StyleTrainer], precision: str, adapter: str
) -> None:
    settings = {"dropout": 0.1, "precision": precision, "adapter": adapter}
    plain, small = (tiny_trainer(**settings, recompute=r) for r in (False, True))
    assert saved_bytes(small) < 0.6 * saved_bytes(plain)
    assert small.history == plain.history
    a, b = plain.state_tensors(), small.state_tensors()
    assert list(a) == list(b)
    assert all(torch.equal(a[key], b[key]) for key in a)
    style = small.style("a")
    assert list(style.delta) == list(plain.style("a").delta)

"""Training in a given memory: the micro-batch that fits, and whether activations are recomputed.

The memory of an optimiser step is counted: weights, gradients and Adam's moments, and what the
forward pass saves for the backward pass. Forward passes on one and two contents show what is saved,
which grows linearly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from osasis.errors import UserError
from osasis.recompute import recomputed_blocks

if TYPE_CHECKING:
    from osasis.contents import Contents
    from osasis.settings import TrainSettings
    from osasis.train import StyleTrainer

GB = 1e9
# Temporary tensors, and fragments of the allocator.
MARGIN = 1.1
# Time of a step with recomputed activations, relative to one without.
RECOMPUTE_COST = 4 / 3


@dataclass(frozen=True)
class StepMemory:
    """Bytes of an optimiser step on one content, and of each further content."""

    first: float
    further: float

    def contents_within(self, limit: float) -> int:
        """Most contents of a pass within ``limit`` bytes; 0 if one does not fit."""
        return 1 + int((limit - self.first) / self.further) if self.first <= limit else 0


def fit_memory(trainer: StyleTrainer, limit: float) -> TrainSettings:
    """The trainer's settings with ``micro_batch`` and ``recompute`` for a memory of ``limit`` GB.

    Activations are recomputed where micro-batches, each with a row of the style image, would cost
    more time. Raises UserError where a step on one content does not fit.
    """
    settings = trainer.settings
    plain, recomputed = step_memory(trainer)
    whole = settings.micro_batch or settings.batch_size
    size = min(whole, plain.contents_within(limit * GB))
    if settings.recompute or _passes_cost(settings.batch_size, size) > RECOMPUTE_COST:
        settings = settings.replace(recompute=True)
        size = min(whole, recomputed.contents_within(limit * GB))
    if size < 1:
        advice = "" if settings.adapter == "lora" else ", or adapter to lora"
        raise UserError(
            f"memory is {limit:g} GB, but a training step takes {recomputed.first / GB:.3g} GB "
            "with one content a pass and recomputed activations; set memory to at least that"
            + advice
        )
    return settings.replace(micro_batch=size) if size < whole else settings


def _passes_cost(batch: int, size: int) -> float:
    """Rows of a batch in micro-batches of a size, relative to those of the whole batch."""
    return (batch + -(-batch // size)) / (batch + 1) if size else float("inf")


def step_memory(trainer: StyleTrainer) -> tuple[StepMemory, StepMemory]:
    """Memory of a trainer's step, without and with recomputed activations."""
    device = trainer.base.device
    held = sum(p.nbytes for p in _parameters(trainer))
    if device.type == "cuda":
        held = torch.cuda.memory_allocated(device)
    # Gradients and two moments.
    held += 3 * sum(p.nbytes for p in trainer.networks.parameters() if p.requires_grad)
    contents = trainer.contents.draw(2, torch.Generator().manual_seed(trainer.settings.seed))
    saved = zip(*(_saved(trainer, contents.take(slice(n))) for n in (1, 2)), strict=True)
    plain, recomputed = (StepMemory(MARGIN * (held + a), MARGIN * (b - a)) for a, b in saved)
    return plain, recomputed


def _parameters(trainer: StyleTrainer) -> list[Tensor]:
    base = trainer.base
    networks = [trainer.networks, base.diffae, base.perceptual, base.guide]
    return [p for n in networks if isinstance(n, nn.Module) for p in n.parameters()]


def _saved(trainer: StyleTrainer, contents: Contents) -> tuple[float, float]:
    """Bytes that a forward pass saves, without and with recomputed activations.

    The latter are inputs of the recomputed blocks, the largest block, and what lies outside blocks.
    """
    count = _SavedBytes(_parameters(trainer))
    handles = []
    for block in recomputed_blocks(trainer.unet, trainer.spn):
        handles.append(block.register_forward_pre_hook(count.enter))
        handles.append(block.register_forward_hook(count.leave))
    objective = trainer.objective
    x_t = torch.cat([contents.x_t0, objective.style_x_t0])
    try:
        with saved_tensors_hooks(count.pack, lambda tensor: tensor):
            # Kept, so that what is saved stays allocated while it is counted.
            last = objective.denoising_steps - 1
            graph = objective.loss_at(trainer.networks, last, x_t, contents)
    finally:
        for handle in handles:
            handle.remove()
    del graph
    return count.total, count.total - count.blocks + count.inputs + count.largest


class _SavedBytes:
    """Counts storages saved for the backward pass: all, and those of blocks."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self.known = {p.untyped_storage().data_ptr() for p in parameters}
        self.total = self.blocks = self.largest = self.inputs = self.entered = 0

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.known.add(storage.data_ptr())
            self.total += storage.nbytes()
        # An output that its own node saves would keep the node, and so itself, for ever.
        return tensor.detach()

    def enter(self, block: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.entered = self.total
        self.inputs += sum(x.nbytes for x in inputs if isinstance(x, Tensor))

    def leave(self, block: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        saved = self.total - self.entered
        self.blocks += saved
        self.largest = max(self.largest, saved)

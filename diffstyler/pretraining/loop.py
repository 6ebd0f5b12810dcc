"""One stage of training: optimiser, averaged weights, checkpoints with exact resume.

The random draws of a step depend on the seed and the step only. So on a CPU a resumed run equals an
uninterrupted one bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from diffstyler.pretraining.settings import PretrainSettings
from osasis.arithmetic import autocast, resolve
from osasis.checkpoints import (
    adam_tensors,
    load_adam_tensors,
    load_checkpoint,
    save_checkpoint,
)
from osasis.errors import DivergedError


class StageLoop:
    """AdamW with warm-up and a linear decay at the end, and an average of the weights.

    loss: of a step's number; computed under the precision's arithmetic.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[int], Tensor],
        settings: PretrainSettings,
        *,
        steps: int,
        lr: float,
    ) -> None:
        self.network, self.loss = network.train(), loss
        self.settings, self.steps, self.lr = settings, steps, lr
        self.step_count = 0
        self.trained: dict[str, Tensor] = dict(network.named_parameters())
        self.device = next(iter(self.trained.values())).device
        self.arithmetic = resolve(settings.precision, self.device)
        self.ema = AveragedModel(network, multi_avg_fn=self._average)
        # The first update copies the weights: the average starts from the initial weights.
        self.ema.update_parameters(network)
        self.optimiser = torch.optim.AdamW(self.trained.values(), lr, weight_decay=0.01, fused=True)

    def step(self) -> float:
        """Do one step. Returns its loss; raises DivergedError where that is not finite."""
        with autocast(self.device, self.arithmetic):
            loss = self.loss(self.step_count)
        value = float(loss.detach())
        if not torch.isfinite(loss):
            raise DivergedError(
                f"training diverged at step {self.step_count + 1}: the loss is {value}; start a "
                "new run with a lower lr or with precision float32"
            )
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr * self.rate(self.step_count)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained.values(), self.settings.grad_clip)
        self.optimiser.step()
        self.ema.update_parameters(self.network)
        self.step_count += 1
        return value

    def rate(self, step: int) -> float:
        """Factor of the learning rate: a linear warm-up, 1, and a linear decay to 0."""
        s = self.settings
        warm = min(1.0, (step + 1) / max(1, s.warmup))
        decaying = s.decay * self.steps
        left = 1.0 if decaying == 0 else min(1.0, (self.steps - step) / decaying)
        return warm * left

    def _average(
        self, averages: Sequence[Tensor], weights: Sequence[Tensor], updates: Tensor | int
    ) -> None:
        # The decay rises with the number of updates, so that the average of a short run forgets
        # its initial weights.
        n = int(updates)
        get_ema_multi_avg_fn(min(self.settings.ema, n / (n + 9)))(averages, weights, updates)

    @property
    def averaged(self) -> nn.Module:
        """The network with averaged weights."""
        return self.ema.module

    def save(self, path: Path) -> None:
        """Write a checkpoint, atomically."""
        averages = dict(self.averaged.named_parameters())
        tensors: dict[str, Tensor] = {f"model.{k}": p for k, p in self.trained.items()}
        tensors |= {f"ema.{k}": averages[k] for k in self.trained}
        tensors |= adam_tensors(self.optimiser, self.trained.items())
        info = {"step": self.step_count, "arithmetic": self.arithmetic}
        save_checkpoint(path, tensors, info)

    @torch.no_grad()
    def resume(self, path: Path) -> None:
        """Continue from a checkpoint, if there is one. Raises UserError if it is none."""
        if not path.is_file():
            return
        tensors, info = load_checkpoint(path)
        self.step_count = info["step"]
        # A resumed run keeps its arithmetic, whatever ``auto`` means on this machine.
        self.arithmetic = info["arithmetic"]
        self.ema.n_averaged.fill_(self.step_count + 1)
        _copy(self.trained, tensors, "model")
        _copy(dict(self.averaged.named_parameters()), tensors, "ema")
        load_adam_tensors(self.optimiser, self.trained.items(), tensors)


def _copy(parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor], prefix: str) -> None:
    for key, parameter in parameters.items():
        parameter.copy_(tensors[f"{prefix}.{key}"])

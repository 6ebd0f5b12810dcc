"""Training loop of one network of a base: optimiser, EMA, exact resume.

The random draws of iteration i depend on (seed, i) only and cover the batch of all workers. So on a
CPU a resumed run equals an uninterrupted one bit for bit, and the batches do not depend on the
number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from osasis.arithmetic import Precision, autocast, resolve
from osasis.checkpoints import adam_tensors, load_adam_tensors
from osasis.diffusion import TRAIN_STEPS
from osasis.errors import UserError
from osasis.pretraining.settings import PretrainSettings
from osasis.seeds import derived_generator


@dataclass(frozen=True)
class WorkerContext:
    """Rank, device and collective operations of one of ``world`` workers.

    wrap: wraps a module so that workers share gradients (DistributedDataParallel). mean: averages
    a number over all workers.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module
    mean: Callable[[float], float] = lambda value: value

    @property
    def is_leader(self) -> bool:
        return self.rank == 0


class TrainingLoop:
    """Adam with warm-up and cosine decay, gradient clipping and an EMA of the weights.

    objective: a module of ``objectives``. worker: takes every ``world``-th row of a batch, from row
    ``rank``. ``wrapped`` computes the losses: the objective, or a wrapper that shares gradients.
    """

    def __init__(
        self,
        objective: nn.Module,
        settings: PretrainSettings,
        *,
        iterations: int,
        lr: float,
        seed: int,
        precision: Precision,
        worker: WorkerContext,
    ) -> None:
        self.objective = self.wrapped = objective
        self.settings, self.iterations, self.lr = settings, iterations, lr
        self.seed, self.worker = seed, worker
        self.iteration = 0
        self.trained = {k: p for k, p in objective.named_parameters() if p.requires_grad}
        self.device = next(iter(self.trained.values())).device
        self.arithmetic = resolve(precision, self.device)
        self.ema = AveragedModel(objective, multi_avg_fn=self._average)
        # The first update copies the weights: the average starts from the initial weights.
        self.ema.update_parameters(objective)
        self.optimiser = torch.optim.Adam(self.trained.values(), lr=lr)

    def step(self, rows: Tensor) -> float:
        """Do one iteration. rows: the batch of all workers, (B, ...). Returns this worker's loss.

        Raises UserError naming the iteration if the loss is not finite.
        """
        generator = derived_generator(self.seed, f"pretrain {self.iteration}")
        t = torch.randint(0, TRAIN_STEPS, rows.shape[:1], generator=generator)
        noise = torch.randn(rows.shape, generator=generator)
        mine = slice(self.worker.rank, None, self.worker.world)
        rows, t, noise = (x[mine].to(self.device) for x in (rows, t, noise))
        if rows.dim() == 4:
            rows, noise = (x.contiguous(memory_format=torch.channels_last) for x in (rows, noise))
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr * self._rate()
        self.optimiser.zero_grad()
        with autocast(self.device, self.arithmetic):
            loss = self.wrapped(rows, t, noise).mean()
        if not torch.isfinite(loss):
            raise UserError(
                f"training diverged at iteration {self.iteration + 1} (the loss is not finite); "
                "start a new run with a lower lr or with precision float32"
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained.values(), self.settings.grad_clip)
        self.optimiser.step()
        self.ema.update_parameters(self.objective)
        self.iteration += 1
        return float(loss.detach())

    def _rate(self) -> float:
        """Factor of the learning rate: linear warm-up times a cosine from 1 to 0."""
        warmup = max(1, min(self.settings.warmup, self.iterations))
        warm = min(1.0, (self.iteration + 1) / warmup)
        return warm * 0.5 * (1 + math.cos(math.pi * self.iteration / self.iterations))

    def _average(
        self, averages: Sequence[Tensor], weights: Sequence[Tensor], updates: Tensor | int
    ) -> None:
        # The decay rises with the number of updates, so that the average of a short run forgets
        # its initial weights.
        n = int(updates)
        get_ema_multi_avg_fn(min(self.settings.ema, n / (n + 9)))(averages, weights, updates)

    def averaged(self) -> dict[str, Tensor]:
        """A copy of the objective's state dict with averaged weights."""
        return {k: v.detach().clone() for k, v in self.ema.module.state_dict().items()}

    def state_tensors(self) -> dict[str, Tensor]:
        """Weights, their averages and Adam's state by name, for ``load_state``."""
        tensors = {f"model.{k}": p.detach() for k, p in self.trained.items()}
        averages = dict(self.ema.module.named_parameters())
        tensors |= {f"ema.{k}": averages[k].detach() for k in self.trained}
        return tensors | adam_tensors(self.optimiser, self.trained.items())

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor], iteration: int) -> None:
        """Restore ``state_tensors``. Raises UserError if the networks differ."""
        shapes = {k: v.shape for k, v in tensors.items()}
        wrong = [k for k, p in self.trained.items() if shapes.get(f"model.{k}") != p.shape]
        if wrong:
            raise UserError(
                f"the checkpoint does not fit the networks (first at {wrong[0]}); continue with "
                "the configuration and settings of its run"
            )
        self.iteration = iteration
        self.ema.n_averaged.fill_(iteration + 1)
        averages = dict(self.ema.module.named_parameters())
        for key, p in self.trained.items():
            p.copy_(tensors[f"model.{key}"])
            averages[key].copy_(tensors[f"ema.{key}"])
        load_adam_tensors(self.optimiser, self.trained.items(), tensors)

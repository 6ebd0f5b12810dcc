"""Early stopping and keeping the best iteration, by the loss or by a metric.

Both are off by default and not in the paper.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from osasis.settings import TrainSettings
from osasis.train import StyleTrainer

PREFIX = "best."
# Metrics of which larger values are better.
HIGHER_IS_BETTER = ("direction",)


class EarlyStopping:
    """Evaluates a training every ``watch_every`` iterations and remembers the best evaluation.

    The state is part of the training checkpoint, so that a resumed training stops at the same
    iteration as an uninterrupted one.
    """

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings
        self.best: float | None = None
        self.best_iteration = 0
        self.waited = 0
        self.weights: dict[str, Tensor] = {}

    @property
    def enabled(self) -> bool:
        return self.settings.keep_best or self.settings.early_stop_patience is not None

    def is_due(self, iteration: int) -> bool:
        """Whether to evaluate this iteration."""
        last = iteration == self.settings.iterations
        return self.enabled and (last or iteration % self.settings.watch_every == 0)

    def evaluate(self, trainer: StyleTrainer, metrics: dict[str, float] | None = None) -> None:
        """Evaluate the current iteration. metrics: needed unless ``watch`` is ``total``."""
        value = recent_loss(trainer, self.settings.watch_every)
        if self.settings.watch != "total":
            value = (metrics or {}).get(self.settings.watch, math.nan)
            value = -value if self.settings.watch in HIGHER_IS_BETTER else value
        if math.isfinite(value) and (self.best is None or value < self.best):
            self.best, self.best_iteration, self.waited = value, trainer.iteration, 0
            if self.settings.keep_best:
                self.weights = trainer.weights()
        else:
            self.waited += 1

    @property
    def should_stop(self) -> bool:
        """Whether the last ``early_stop_patience`` evaluations found no better value."""
        patience = self.settings.early_stop_patience
        return patience is not None and self.waited >= patience

    def restore_best(self, trainer: StyleTrainer) -> int:
        """Restore the best weights where ``keep_best`` is set; returns the kept iteration."""
        if not self.settings.keep_best or not self.weights:
            return trainer.iteration
        trainer.load_weights(self.weights)
        return self.best_iteration

    def state_tensors(self) -> dict[str, Tensor]:
        return {PREFIX + key: value for key, value in self.weights.items()}

    def state_info(self) -> dict[str, Any]:
        return {"best": self.best, "best_iteration": self.best_iteration, "waited": self.waited}

    def load_state(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        self.best, self.waited = info["best"], info["waited"]
        self.best_iteration = info["best_iteration"]
        self.weights = {
            k.removeprefix(PREFIX): v for k, v in tensors.items() if k.startswith(PREFIX)
        }


def recent_loss(trainer: StyleTrainer, count: int) -> float:
    """Mean total loss of the last ``count`` iterations."""
    rows = trainer.history[-count:]
    return sum(r["total"] for r in rows) / max(1, len(rows))

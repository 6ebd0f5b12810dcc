"""Early stopping and keeping the best iteration, by the loss or by a metric.

Neither is in the paper; both are off unless the settings ask for them.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from osasis.settings import TrainSettings
from osasis.train import StyleTrainer

PREFIX = "best."
# Metrics that are better when they are larger.
RISING = ("direction",)


class EarlyStopping:
    """Evaluates a training every ``watch_every`` iterations and remembers the best evaluation.

    The state is part of a training checkpoint, so that a resumed training ends as an uninterrupted
    one.
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
        """Whether this iteration is to be evaluated."""
        last = iteration == self.settings.iterations
        return self.enabled and (last or iteration % self.settings.watch_every == 0)

    def evaluate(self, trainer: StyleTrainer, metrics: dict[str, float] | None = None) -> None:
        """Evaluate the current iteration. metrics: needed unless ``watch`` is ``total``."""
        value = recent_loss(trainer, self.settings.watch_every)
        if self.settings.watch != "total":
            value = (metrics or {}).get(self.settings.watch, math.nan)
            value = -value if self.settings.watch in RISING else value
        if math.isfinite(value) and (self.best is None or value < self.best):
            self.best, self.best_iteration, self.waited = value, trainer.iteration, 0
            if self.settings.keep_best:
                self.weights = trainer.weights()
        else:
            self.waited += 1

    @property
    def should_stop(self) -> bool:
        """Whether ``early_stop_patience`` evaluations in a row brought no better value."""
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

"""Early stopping: choosing the best evaluation, stopping, restoring, resuming."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from osasis.early_stopping import EarlyStopping, recent_loss
from osasis.train import StyleTrainer

Trainers = Callable[..., StyleTrainer]
FALLING_THEN_RISING = (0.9, 0.5, 0.7, 0.6, 0.4)


def evaluate_each(
    trainer: StyleTrainer, values: tuple[float, ...]
) -> tuple[EarlyStopping, list[int]]:
    """Early stopping after an evaluation of each iteration, and the iterations trained."""
    stopping = EarlyStopping(trainer.settings)
    seen = []
    for value in values:
        trainer.step()
        seen.append(trainer.iteration)
        stopping.evaluate(trainer, {trainer.settings.watch: value})
        if stopping.should_stop:
            break
    return stopping, seen


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


def test_both_are_off_by_default(tiny_trainer: Trainers) -> None:
    trainer = tiny_trainer()
    stopping = EarlyStopping(trainer.settings)
    assert not stopping.enabled
    assert not any(stopping.is_due(i) for i in range(1, 30))
    trainer.step()
    last = trainer.weights()
    assert stopping.restore_best(trainer) == 1
    assert same(trainer.weights(), last)
    for asked in ({"keep_best": True}, {"early_stop_patience": 1}):
        assert EarlyStopping(tiny_trainer(**asked).settings).enabled


def test_evaluations_are_due_every_few_iterations_and_at_the_last(tiny_trainer: Trainers) -> None:
    stopping = EarlyStopping(tiny_trainer(keep_best=True, watch_every=3, iterations=8).settings)
    assert [i for i in range(1, 9) if stopping.is_due(i)] == [3, 6, 8]


def test_training_stops_after_patience(tiny_trainer: Trainers) -> None:
    settings = {"watch": "style_distance", "iterations": 5}
    _, seen = evaluate_each(tiny_trainer(early_stop_patience=2, **settings), FALLING_THEN_RISING)
    assert seen == [1, 2, 3, 4]
    _, seen = evaluate_each(tiny_trainer(early_stop_patience=3, **settings), FALLING_THEN_RISING)
    assert seen == [1, 2, 3, 4, 5]


def test_the_weights_of_the_best_iteration_are_restored(tiny_trainer: Trainers) -> None:
    settings = {"watch": "style_distance", "iterations": 5}
    trainer = tiny_trainer(keep_best=True, early_stop_patience=2, **settings)
    stopping, _ = evaluate_each(trainer, FALLING_THEN_RISING)
    plain = tiny_trainer(**settings)
    for _ in range(2):
        plain.step()
    assert not same(trainer.weights(), plain.weights())
    assert stopping.restore_best(trainer) == 2
    assert same(trainer.weights(), plain.weights())


def test_a_larger_direction_is_better(tiny_trainer: Trainers) -> None:
    trainer = tiny_trainer(keep_best=True, watch="direction", iterations=3)
    stopping, _ = evaluate_each(trainer, (0.1, 0.3, 0.2))
    assert stopping.restore_best(trainer) == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_inf_are_never_best(tiny_trainer: Trainers, value: float) -> None:
    trainer = tiny_trainer(keep_best=True, watch="style_distance", iterations=3)
    stopping, _ = evaluate_each(trainer, (value, 0.5, value))
    assert (stopping.best, stopping.best_iteration, stopping.waited) == (0.5, 2, 1)


def test_the_loss_is_the_mean_since_the_last_evaluation(tiny_trainer: Trainers) -> None:
    trainer = tiny_trainer(keep_best=True, watch_every=2)
    for _ in range(3):
        trainer.step()
    totals = [row["total"] for row in trainer.history]
    assert recent_loss(trainer, 2) == pytest.approx((totals[1] + totals[2]) / 2)
    stopping = EarlyStopping(trainer.settings)
    stopping.evaluate(trainer)
    assert stopping.best == recent_loss(trainer, 2)


def test_resumed_early_stopping_equals_the_uninterrupted_one(tiny_trainer: Trainers) -> None:
    settings: dict[str, Any] = {"watch": "style_distance", "iterations": 5, "keep_best": True}
    settings["early_stop_patience"] = 2
    trainer = tiny_trainer(**settings)
    stopping, _ = evaluate_each(trainer, FALLING_THEN_RISING[:3])
    info = json.loads(json.dumps(stopping.state_info()))
    again = EarlyStopping(trainer.settings)
    again.load_state({**trainer.state_tensors(), **stopping.state_tensors()}, info)
    assert (again.best, again.best_iteration, again.waited) == (0.5, 2, 1)
    assert same(again.weights, stopping.weights)
    again.evaluate(trainer, {"style_distance": 0.6})
    assert again.should_stop
    assert again.restore_best(trainer) == 2

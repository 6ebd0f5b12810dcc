"""A resumable training loop with a budget in minutes or steps.

The learning rate follows a cosine over the budget. With a budget in steps, a resumed run equals an
uninterrupted one bit for bit.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from osasis.arithmetic import Arithmetic
from osasis.checkpoints import load_checkpoint, save_checkpoint
from osasis.errors import UserError

# Runs with a budget in minutes fail below this number of steps: their result is useless.
MIN_STEPS = 100
# Time between checkpoints.
SAVE_SECONDS = 60


class BudgetTooShortError(UserError):
    """The budget in minutes ended before MIN_STEPS steps."""


class Trainer(Protocol):
    """A model with its optimiser and training step."""

    steps_done: int
    arithmetic: Arithmetic

    @property
    def model(self) -> torch.nn.Module: ...

    @property
    def optimiser(self) -> torch.optim.Optimizer: ...

    def step(self, lr_factor: float) -> dict[str, float]:
        """Do one step. lr_factor: multiplies the learning rate, 0 to 1. Returns named losses."""
        ...


@dataclass(frozen=True)
class TrainingBudget:
    """Minutes of wall time or a number of steps, over all resumed runs. Raises UserError."""

    minutes: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise UserError("the budget must be either minutes or steps: give one of the two")
        value = self.minutes if self.steps is None else self.steps
        if value is None or not value > 0:
            raise UserError(f"the training budget is {value}; it must be above 0")

    def progress(self, steps: int, seconds: float) -> float:
        """The used fraction of the budget; 1 at its end."""
        if self.steps is not None:
            return steps / self.steps
        assert self.minutes is not None
        return seconds / (60 * self.minutes)


def learning_rate_factor(progress: float) -> float:
    """Linear warm-up, then a half cosine down to 1%."""
    if progress < 0.03:
        return max(progress / 0.03, 0.02)
    return 0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * min(progress, 1.0)))


def optimiser_step(trainer: Trainer, loss: Tensor, lr: float) -> None:
    """Do one step of the trainer's optimiser, with the norm of the gradient clipped to 1."""
    trainer.optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
    for group in trainer.optimiser.param_groups:
        group["lr"] = lr
    trainer.optimiser.step()
    trainer.steps_done += 1


def train_within_budget(
    trainer: Trainer,
    budget: TrainingBudget,
    state_path: Path,
    identity: dict[str, Any],
    *,
    stop_after: int | None = None,
) -> list[dict[str, float]]:
    """Train to the end of the budget and return the losses of every step.

    state_path: checkpoint; an existing one is resumed.
    identity: inputs that determine the result (seed, data). A checkpoint must have the same.
    stop_after: save and return after this number of steps, counted over all runs (for tests).
    Raises UserError for the checkpoint of another training or a loss that is not finite,
    BudgetTooShortError below ``MIN_STEPS``.
    """
    spent, curve = _resume(trainer, state_path, identity)
    started = saved = time.monotonic()
    while True:
        seconds = spent + time.monotonic() - started
        progress = budget.progress(trainer.steps_done, seconds)
        stopping = stop_after is not None and trainer.steps_done >= stop_after
        if progress >= 1 or stopping or time.monotonic() - saved > SAVE_SECONDS:
            _save(trainer, state_path, identity, seconds, curve)
            saved = time.monotonic()
        if progress >= 1 or stopping:
            break
        losses = trainer.step(learning_rate_factor(progress))
        bad = [k for k, v in losses.items() if not math.isfinite(v)]
        if bad:
            raise UserError(
                f"training diverged at step {trainer.steps_done}: {bad[0]} is not finite"
            )
        curve.append(losses)
        if trainer.steps_done % 25 == 0:
            recent = {k: sum(r[k] for r in curve[-25:]) / len(curve[-25:]) for k in losses}
            shown = ", ".join(f"{k} {v:.4f}" for k, v in recent.items())
            print(f"{100 * progress:5.1f}%  step {trainer.steps_done}: {shown}", file=sys.stderr)
    if budget.minutes is not None and trainer.steps_done < MIN_STEPS:
        raise BudgetTooShortError(
            f"{budget.minutes:g} minutes allowed only {trainer.steps_done} of at least {MIN_STEPS} "
            "steps; give more minutes (the run continues from its checkpoint)"
        )
    return curve


def _save(
    trainer: Trainer, path: Path, identity: dict[str, Any], seconds: float, curve: list[Any]
) -> None:
    tensors = {f"model.{k}": v for k, v in trainer.model.state_dict().items()}
    for i, slots in trainer.optimiser.state_dict()["state"].items():
        tensors |= {f"optim.{i}.{k}": torch.as_tensor(v) for k, v in slots.items()}
    info = {
        "steps": trainer.steps_done,
        "seconds": seconds,
        "arithmetic": trainer.arithmetic,
        "identity": identity,
        "curve": curve,
    }
    save_checkpoint(path, tensors, info)


def _resume(
    trainer: Trainer, path: Path, identity: dict[str, Any]
) -> tuple[float, list[dict[str, float]]]:
    if not path.is_file():
        return 0.0, []
    tensors, info = load_checkpoint(path)
    if info["identity"] != identity:
        raise UserError(
            f"{path}: checkpoint of another training ({info['identity']}, now {identity}); "
            "delete it to start again"
        )
    trainer.model.load_state_dict(
        {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    )
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optim."):
            _, index, slot = key.split(".", 2)
            state.setdefault(int(index), {})[slot] = value
    trainer.optimiser.load_state_dict({**trainer.optimiser.state_dict(), "state": state})
    trainer.steps_done = info["steps"]
    # A resumed training keeps its arithmetic, whatever ``auto`` means on this machine.
    trainer.arithmetic = info.get("arithmetic", trainer.arithmetic)
    return info["seconds"], list(info["curve"])


def tool_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that the training tools share."""
    p = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    p.add_argument("--images", type=Path, required=True, help="folder of photos")
    p.add_argument("--minutes", type=float, help="wall time of training, all runs together")
    p.add_argument("--steps", type=int, help="number of training steps, instead of minutes")
    p.add_argument("--seed", type=int, default=0, help="seed of all random draws")
    p.add_argument("--validation", type=Path, help="folder of other photos to evaluate on")
    return p


def run_tool(
    train: Callable[..., dict[str, Any]], parser: argparse.ArgumentParser, argv: list[str] | None
) -> int:
    """Call ``train(budget=..., **options)`` and print its report as JSON.

    Exit codes: 0 success, 1 too little time, 2 invalid input.
    """
    options = vars(parser.parse_args(argv))
    minutes, steps = options.pop("minutes"), options.pop("steps")
    try:
        report = train(budget=TrainingBudget(minutes, steps), **options)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1 if isinstance(e, BudgetTooShortError) else 2
    print(json.dumps(report, indent=2))
    return 0

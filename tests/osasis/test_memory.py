"""Training within a given memory."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch

from osasis.errors import UserError
from osasis.memory import GB, step_memory
from osasis.train import StyleTrainer
from tests.osasis.test_recompute import saved_bytes

Trainers = Callable[..., StyleTrainer]


def limit_for(trainer: StyleTrainer, contents: int, recompute: bool = False) -> float:
    """GB that a step on this number of contents takes."""
    memory = step_memory(trainer)[recompute]
    return (memory.first + (contents - 0.5) * memory.further) / GB


def live_bytes() -> int:
    gc.collect()
    return sum(o.nbytes for o in gc.get_objects() if type(o) is torch.Tensor)


def test_counting_keeps_no_memory(tiny_trainer: Trainers) -> None:
    trainer = tiny_trainer()
    step_memory(trainer)
    before = live_bytes()
    step_memory(trainer)
    assert live_bytes() == before


def test_a_step_that_fits_is_left_as_it_is(tiny_trainer: Trainers) -> None:
    limit = limit_for(tiny_trainer(batch_size=4), 4)
    settings = tiny_trainer(batch_size=4, memory=limit).settings
    assert (settings.micro_batch, settings.recompute) == (None, False)


def test_micro_batches_that_fit_give_the_weights_of_the_same_setting(
    tiny_trainer: Trainers,
) -> None:
    limit = limit_for(tiny_trainer(batch_size=4), 2)
    fitted, given = (
        tiny_trainer(batch_size=4, memory=limit),
        tiny_trainer(batch_size=4, micro_batch=2),
    )
    assert (fitted.settings.micro_batch, fitted.settings.recompute) == (2, False)
    fitted.step()
    given.step()
    a, b = fitted.weights(), given.weights()
    assert all(torch.equal(a[key], b[key]) for key in b)


def test_activations_are_recomputed_where_small_passes_would_take_longer(
    tiny_trainer: Trainers,
) -> None:
    limit = limit_for(tiny_trainer(batch_size=8), 1)
    fitted = tiny_trainer(batch_size=8, memory=limit)
    assert fitted.settings.recompute
    assert fitted.settings.micro_batch is None or fitted.settings.micro_batch > 1
    assert saved_bytes(fitted) < saved_bytes(tiny_trainer(batch_size=8))


def test_too_little_memory_is_refused_with_what_is_needed(tiny_trainer: Trainers) -> None:
    needed = step_memory(tiny_trainer(batch_size=1))[1].first / GB
    with pytest.raises(UserError, match=f"takes {needed:.3g} GB"):
        tiny_trainer(batch_size=1, memory=needed / 2)

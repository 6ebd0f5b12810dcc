"""Which of the 1000 timesteps a schedule visits. Without torch: settings are checked with it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from osasis.errors import UserError

TRAIN_STEPS = 1000


def stride_timesteps(steps: int, spacing: str = "leading") -> np.ndarray:
    """DDIM's uniform stride over the 1000 timesteps.

    ``leading`` starts at t = 0, as published: T = 20 gives 0, 50, ..., 950. ``trailing`` ends
    the strides instead: 50, 100, ..., 999; index T/2 - 1 is then t = 500, where inversion ends.
    Raises UserError where no integer stride gives ``steps`` steps.
    """
    stride = -(-TRAIN_STEPS // steps) if 0 < steps <= TRAIN_STEPS else 0
    if stride == 0 or len(range(0, TRAIN_STEPS, stride)) != steps:
        near = min(_allowed_steps(), key=lambda n: abs(n - steps))
        raise UserError(
            f"a schedule of {steps} steps is not possible: 1000 timesteps have no stride that "
            f"gives so many; the nearest possible number is {near}"
        )
    if spacing == "leading":
        return np.arange(0, TRAIN_STEPS, stride)
    k = np.arange(1, steps + 1)
    # No timestep twice, also where the stride does not divide 1000.
    return np.minimum(k * TRAIN_STEPS // steps, TRAIN_STEPS - 1 - steps + k)


def even_timesteps(steps: int) -> np.ndarray:
    """Guided diffusion's even respacing from 0 to 999, which the photo prior uses."""
    if steps == 1:
        return np.zeros(1, dtype=np.int64)
    stride = (TRAIN_STEPS - 1) / (steps - 1)
    return np.array([round(i * stride) for i in range(steps)], dtype=np.int64)


@lru_cache(maxsize=1)
def _allowed_steps() -> frozenset[int]:
    return frozenset(len(range(0, TRAIN_STEPS, stride)) for stride in range(1, TRAIN_STEPS + 1))

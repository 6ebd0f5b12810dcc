"""Diffusion as pure functions: schedules, DDIM step, ancestral step.

Indices count the steps of a respaced schedule (0 is the cleanest); ``timesteps[i]`` is the
original timestep, 0..999, that the networks take. An ``EpsFn`` maps (x_t, t) to the predicted
noise, with t a (B,) tensor of original timesteps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from osasis.errors import UserError

TRAIN_STEPS = 1000
LATENT_BETA = 0.008
# Tolerance for float errors, so that int(10 * (1 - 0.8)) is 2 and not 1.
ROUNDING = 1e-9

EpsFn = Callable[[Tensor, Tensor], Tensor]
# Called after each step with (steps done, total steps).
Progress = Callable[[int, int], None]


def stride_timesteps(steps: int, spacing: str = "leading") -> np.ndarray:
    """DDIM timesteps (steps,) int64 with a uniform stride over the 1000 timesteps.

    ``leading`` takes the first timestep of each stride, as published: 20 steps are 0, 50, ..., 950.
    ``trailing`` takes the last: 50, 100, ..., 999.
    Raises UserError where no integer stride gives ``steps`` steps.
    """
    stride = -(-TRAIN_STEPS // steps) if 0 < steps <= TRAIN_STEPS else 0
    if stride == 0 or len(range(0, TRAIN_STEPS, stride)) != steps:
        near = min(_allowed_steps(), key=lambda n: abs(n - steps))
        raise UserError(
            f"a schedule of {steps} steps is not possible: no integer stride over 1000 timesteps "
            f"gives this number; the nearest possible number is {near}"
        )
    if spacing == "leading":
        return np.arange(0, TRAIN_STEPS, stride)
    k = np.arange(1, steps + 1)
    # Timesteps are unique, also where the stride does not divide 1000.
    return np.minimum(k * TRAIN_STEPS // steps, TRAIN_STEPS - 1 - steps + k)


@lru_cache(maxsize=1)
def _allowed_steps() -> frozenset[int]:
    return frozenset(len(range(0, TRAIN_STEPS, stride)) for stride in range(1, TRAIN_STEPS + 1))


@dataclass(frozen=True)
class Schedule:
    """A respaced noise schedule.

    timesteps: (T,) int64, original timesteps, ascending. alphas_cumprod: (T,) float64, their
    alpha_bar.
    """

    timesteps: np.ndarray
    alphas_cumprod: np.ndarray

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    def alpha_bar(self, i: int) -> float:
        """alpha_bar at index i; 1 for i < 0 and 0 for i >= T, as published."""
        if i < 0:
            return 1.0
        return float(self.alphas_cumprod[i]) if i < self.steps else 0.0

    def timestep(self, i: int, like: Tensor) -> Tensor:
        """(B,) tensor of the original timestep at index i, for the batch of ``like``."""
        return torch.full((like.shape[0],), int(self.timesteps[i]), device=like.device)


def linear_alphas_cumprod() -> np.ndarray:
    """alpha_bar of the 1000 linear betas from 1e-4 to 0.02 (DDPM). (1000,) float64."""
    return np.cumprod(1.0 - np.linspace(1e-4, 0.02, TRAIN_STEPS, dtype=np.float64))


@lru_cache(maxsize=64)
def image_schedule(steps: int, spacing: str = "leading") -> Schedule:
    """Respaced linear schedule of the DiffAE."""
    t = stride_timesteps(steps, spacing)
    return Schedule(t, linear_alphas_cumprod()[t])


@lru_cache(maxsize=16)
def latent_schedule(steps: int) -> Schedule:
    """Respaced schedule of the latent DDIM: constant beta 0.008."""
    t = stride_timesteps(steps)
    return Schedule(t, np.cumprod(np.full(TRAIN_STEPS, 1.0 - LATENT_BETA))[t])


@lru_cache(maxsize=16)
def prior_schedule(steps: int) -> Schedule:
    """Respaced linear schedule of the photo prior: even timesteps, 0 to 999 (guided diffusion)."""
    t = np.linspace(0, TRAIN_STEPS - 1, steps).round().astype(np.int64)
    return Schedule(t, linear_alphas_cumprod()[t])


def predict_x0(s: Schedule, i: int, x_t: Tensor, eps: Tensor, clip: bool = True) -> Tensor:
    """x_0 from x_t and the noise (DDPM, Eq. 15), clamped to [-1, 1] if ``clip``."""
    a = s.alpha_bar(i)
    x0 = (1.0 / a) ** 0.5 * x_t - (1.0 / a - 1.0) ** 0.5 * eps
    return x0.clamp(-1, 1) if clip else x0


def move_to(s: Schedule, i: int, target: int, x_t: Tensor, x0: Tensor) -> Tensor:
    """x at index ``target`` with the x_0 and the noise of x_t at index i (DDIM, Eq. 12)."""
    a, b = s.alpha_bar(i), s.alpha_bar(target)
    eps = ((1.0 / a) ** 0.5 * x_t - x0) / (1.0 / a - 1.0) ** 0.5
    return b**0.5 * x0 + (1.0 - b) ** 0.5 * eps


def ddim_step(
    s: Schedule, i: int, x_t: Tensor, eps: Tensor, clip: bool = True
) -> tuple[Tensor, Tensor]:
    """One deterministic DDIM step, index i to i - 1 (OSASIS, Eq. 8). Returns (x_prev, x_0)."""
    x0 = predict_x0(s, i, x_t, eps, clip)
    return move_to(s, i, i - 1, x_t, x0), x0


def q_sample(s: Schedule, i: int, x0: Tensor, noise: Tensor) -> Tensor:
    """Noise x_0 to index i (DDPM, Eq. 4; OSASIS, Eq. 9)."""
    a = s.alpha_bar(i)
    return a**0.5 * x0 + (1.0 - a) ** 0.5 * noise


def ancestral_step(
    s: Schedule, i: int, x_t: Tensor, output: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """One ancestral step with learned variance (Improved DDPM, Eq. 15; OSASIS, Eq. 10).

    output: (B, 6, H, W), the noise and the interpolation of the variance. noise: like x_t, not used
    at index 0. Returns (x_prev, x_0).
    """
    eps, interpolation = output.chunk(2, dim=1)
    x0 = predict_x0(s, i, x_t, eps)
    a, previous = s.alpha_bar(i), s.alpha_bar(i - 1)
    beta = 1.0 - a / previous
    mean = (beta * previous**0.5 / (1.0 - a)) * x0 + (
        (1.0 - previous) * (1.0 - beta) ** 0.5 / (1.0 - a)
    ) * x_t
    if i == 0:
        return mean, x0
    low = float(np.log(beta * (1.0 - previous) / (1.0 - a)))
    share = (interpolation + 1) / 2
    log_variance = share * float(np.log(beta)) + (1 - share) * low
    return mean + torch.exp(0.5 * log_variance) * noise, x0


def ddim_sample(
    eps_fn: EpsFn,
    x: Tensor,
    s: Schedule,
    start: int | None = None,
    clip: bool = True,
    progress: Progress | None = None,
) -> Tensor:
    """DDIM sampling from index ``start`` (default: the last) to x_0."""
    for i in _with_progress(range(s.steps - 1 if start is None else start, -1, -1), progress):
        x, _ = ddim_step(s, i, x, eps_fn(x, s.timestep(i, x)), clip)
    return x


def steps_to(s: Schedule, t0: float) -> int:
    """Number of inversion steps to t0 in (0, 1]: int(T * t0)."""
    return int(s.steps * t0 + ROUNDING)


def steps_from(s: Schedule, t0: float) -> int:
    """Number of denoising steps from t0: T - int(T * (1 - t0)), as published.

    Differs from ``steps_to`` only where T * t0 is not a whole number.
    """
    return s.steps - int(s.steps * (1 - t0) + ROUNDING)


def _with_progress(indices: range, progress: Progress | None) -> Iterable[int]:
    for done, i in enumerate(indices, start=1):
        yield i
        if progress is not None:
            progress(done, len(indices))

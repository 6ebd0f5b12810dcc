"""Sampling between a photo and its noised form: timesteps, inversion and denoising solvers.

A style's settings and a mix choose the spacing of the timesteps and the solvers. Training and
stylization take the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from osasis.choices import DecodeSolver, EncodeSolver, Spacing
from osasis.diffusion import (
    TRAIN_STEPS,
    EpsFn,
    Progress,
    Schedule,
    image_schedule,
    linear_alphas_cumprod,
    move_to,
    predict_x0,
    steps_from,
    steps_to,
)

# The cleanest timestep of quadratic spacing; a single step from it reaches the photo.
FIRST_TIMESTEP = 5
# Network calls per step of exact inversion. After three the remaining error is not visible.
FIXED_POINT_ITERATIONS = 3


@dataclass(frozen=True)
class Walk:
    """Steps between a photo and its noised form at t0.

    Indices 0 to ``count`` of an inversion, and ``count - 1`` to -1 of a denoising, count the
    schedule's steps; index -1 is the photo.
    """

    schedule: Schedule
    count: int


@lru_cache(maxsize=64)
def inversion_walk(spacing: Spacing, steps: int, t0: float) -> Walk:
    """The walk from a photo to t0. steps: of a full schedule.

    ``leading`` is the published schedule, which ends at t0 where t0 is a whole number of steps.
    The other spacings end at t0 for any number of steps; the network is evaluated at indices 0 to
    ``count - 1``.
    """
    if spacing == "leading":
        schedule = image_schedule(steps)
        return Walk(schedule, steps_to(schedule, t0))
    count, end = _count(steps, t0), _end(t0)
    if spacing == "trailing":
        return _walk([end * k // count for k in range(count + 1)], count)
    return _walk(_quadratic(0, end, count + 1), count)


@lru_cache(maxsize=64)
def denoising_walk(spacing: Spacing, steps: int, t0: float) -> Walk:
    """The walk from t0 to the photo. steps: of a full schedule.

    ``leading`` is the published schedule, which starts one step below t0. The other spacings start
    at t0 for any number of steps: ``trailing`` with equal distances, ``quadratic`` with distances
    that grow with the noise (DDIM, Sec. D.3), down to ``FIRST_TIMESTEP``.
    """
    if spacing == "leading":
        schedule = image_schedule(steps)
        return Walk(schedule, steps_from(schedule, t0))
    count, end = _count(steps, t0), _end(t0)
    if spacing == "trailing":
        return _walk([end * k // count for k in range(1, count + 1)], count)
    return _walk(_quadratic(min(FIRST_TIMESTEP, end - count + 1), end, count), count)


def _count(steps: int, t0: float) -> int:
    return min(max(1, round(steps * t0)), _end(t0))


def _end(t0: float) -> int:
    return min(round(TRAIN_STEPS * t0), TRAIN_STEPS - 1)


def _quadratic(first: int, last: int, count: int) -> list[int]:
    """``count`` increasing timesteps whose distances grow linearly; one is ``last`` alone."""
    if count == 1:
        return [last]
    times: list[int] = []
    for k in range(count):
        t = round(first + (last - first) * (k / (count - 1)) ** 2)
        times.append(max(t, times[-1] + 1) if times else t)
    return times


def _walk(times: list[int], count: int) -> Walk:
    t = np.array(times, dtype=np.int64)
    return Walk(Schedule(t, linear_alphas_cumprod()[t]), count)


# A step from index i to the adjacent index ``target``, given x_t, its predicted x_0 and the
# predicted x_0 of the index before (None at the first step of a walk). Returns x at ``target``.
Solver = Callable[[Schedule, int, int, Tensor, Tensor, Tensor | None], Tensor]


def ddim(
    s: Schedule, i: int, target: int, x_t: Tensor, x0: Tensor, before: Tensor | None = None
) -> Tensor:
    """DDIM with eta 0 (Song et al., 2021, Eq. 12): first order, uses no earlier step."""
    return move_to(s, i, target, x_t, x0)


def dpmpp_2m(
    s: Schedule, i: int, target: int, x_t: Tensor, x0: Tensor, before: Tensor | None = None
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al., 2022, Algorithm 2): second order in the log-SNR.

    It extrapolates x_0 from the last two predictions. The first step of a walk, and a step to the
    photo or to pure noise, where the log-SNR is infinite, are of first order and equal DDIM.
    """
    if before is None or not 0 < s.alpha_bar(target) < 1:
        return move_to(s, i, target, x_t, x0)
    now = _log_snr(s, i)
    ratio = (now - _log_snr(s, 2 * i - target)) / (_log_snr(s, target) - now)
    a, b = s.alpha_bar(i), s.alpha_bar(target)
    noise_ratio = ((1 - b) / (1 - a)) ** 0.5
    extrapolated = x0 + (x0 - before) / (2 * ratio)
    return noise_ratio * x_t + (b**0.5 - a**0.5 * noise_ratio) * extrapolated


def _log_snr(s: Schedule, i: int) -> float:
    """Half the log signal-to-noise ratio, log(alpha / sigma), at index i."""
    a = s.alpha_bar(i)
    return 0.5 * math.log(a / (1 - a))


SOLVERS: dict[DecodeSolver, Solver] = {"ddim": ddim, "dpmpp_2m": dpmpp_2m}

# Noises a photo to t0: (noise predictor, photo, spacing, steps of a full schedule, t0, progress).
Inverter = Callable[[EpsFn, Tensor, Spacing, int, float, Progress | None], Tensor]


def _invert_with(
    solver: Solver,
    eps_fn: EpsFn,
    photo: Tensor,
    spacing: Spacing,
    steps: int,
    t0: float,
    progress: Progress | None = None,
) -> Tensor:
    """Inversion as the solver's steps in reverse direction (OSASIS, Eq. 7 and 11)."""
    walk = inversion_walk(spacing, steps, t0)
    s, x, before = walk.schedule, photo, None
    for i in range(walk.count):
        x0 = predict_x0(s, i, x, eps_fn(x, s.timestep(i, x)))
        x, before = solver(s, i, i + 1, x, x0, before), x0
        _report(progress, i + 1, walk.count)
    return x


def fixed_point(
    eps_fn: EpsFn,
    photo: Tensor,
    spacing: Spacing,
    steps: int,
    t0: float,
    progress: Progress | None = None,
) -> Tensor:
    """The noise from which the DDIM walk of the same spacing and steps returns to the photo.

    Each step solves x_{i+1} = invert(x_i, eps(x_{i+1})) by fixed-point iteration (AIDI; Pan et al.,
    2023, Sec. 4.1), where plain inversion takes eps(x_i).
    """
    walk = denoising_walk(spacing, steps, t0)
    s, x, eps = walk.schedule, photo, torch.zeros_like(photo)
    for i in range(-1, walk.count - 1):
        a, b = s.alpha_bar(i), s.alpha_bar(i + 1)
        scale = (b / a) ** 0.5
        noise = (1 - b) ** 0.5 - scale * (1 - a) ** 0.5
        # The noise of the step before is the first guess.
        y = scale * x + noise * eps
        for n in range(FIXED_POINT_ITERATIONS):
            eps = eps_fn(y, s.timestep(i + 1, y))
            y = scale * x + noise * eps
            done = (i + 1) * FIXED_POINT_ITERATIONS + n + 1
            _report(progress, done, walk.count * FIXED_POINT_ITERATIONS)
        x = y
    return x


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


INVERTERS: dict[EncodeSolver, Inverter] = {
    "ddim": partial(_invert_with, ddim),
    "dpmpp_2m": partial(_invert_with, dpmpp_2m),
    "fixed_point": fixed_point,
}


def inversion_calls(solver: EncodeSolver, spacing: Spacing, steps: int, t0: float) -> int:
    """Number of network calls of an inversion."""
    if solver == "fixed_point":
        return denoising_walk(spacing, steps, t0).count * FIXED_POINT_ITERATIONS
    return inversion_walk(spacing, steps, t0).count


@torch.no_grad()
def sample(
    eps_fn: EpsFn, noise: Tensor, solver: DecodeSolver, walk: Walk, progress: Progress | None = None
) -> Tensor:
    """Denoise along a walk to the photo. noise: (B, 3, H, W) at the walk's start."""
    s, x, before = walk.schedule, noise, None
    for done, i in enumerate(range(walk.count - 1, -1, -1), start=1):
        x0 = predict_x0(s, i, x, eps_fn(x, s.timestep(i, x)))
        x, before = SOLVERS[solver](s, i, i - 1, x, x0, before), x0
        _report(progress, done, walk.count)
    return x

"""Timesteps between photo and t0, and the solvers of inversion and denoising."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from osasis import sampling
from osasis.choices import DecodeSolver, EncodeSolver, Spacing
from osasis.diffusion import EpsFn, Schedule, image_schedule, linear_alphas_cumprod, q_sample
from osasis.sampling import (
    FIXED_POINT_ITERATIONS,
    INVERTERS,
    SOLVERS,
    ddim,
    denoising_walk,
    dpmpp_2m,
    inversion_calls,
    inversion_walk,
    sample,
)

ALPHA_BAR = linear_alphas_cumprod()
Images = Callable[..., Tensor]


def times(walk_schedule: Schedule, count: int) -> list[int]:
    return walk_schedule.timesteps[:count].tolist()


def gaussian_eps(variance: float) -> EpsFn:
    """The exact noise predictor of data N(0, variance); its ODE is x_t ~ sqrt of x_t's variance."""

    def eps(x: Tensor, t: Tensor) -> Tensor:
        a = torch.from_numpy(ALPHA_BAR)[t].to(x.dtype).view(-1, 1, 1, 1)
        return (1 - a).sqrt() * x / (a * variance + 1 - a)

    return eps


def deviation(t: int, variance: float) -> float:
    a = ALPHA_BAR[t]
    return float((a * variance + 1 - a) ** 0.5)


def test_leading_walks_are_the_published_schedule() -> None:
    """Inversion ends at t = 500, the way back starts at t = 450 of 20 steps."""
    forth, back = inversion_walk("leading", 50, 0.5), denoising_walk("leading", 20, 0.5)
    assert times(forth.schedule, forth.count + 1) == list(range(0, 501, 20))
    assert times(back.schedule, back.count) == list(range(0, 451, 50))
    np.testing.assert_array_equal(back.schedule.timesteps, image_schedule(20).timesteps)


def test_trailing_walks_start_where_inversion_ends() -> None:
    forth, back = inversion_walk("trailing", 20, 0.5), denoising_walk("trailing", 8, 0.5)
    assert times(forth.schedule, forth.count + 1) == list(range(0, 501, 50))
    assert times(back.schedule, back.count) == [125, 250, 375, 500]


def test_quadratic_timesteps() -> None:
    forth, back = inversion_walk("quadratic", 10, 0.5), denoising_walk("quadratic", 10, 0.5)
    assert times(forth.schedule, 6) == [0, 20, 80, 180, 320, 500]
    assert times(back.schedule, 5) == [5, 36, 129, 283, 500]


@pytest.mark.parametrize("spacing", ["trailing", "quadratic"])
@pytest.mark.parametrize("t0", [0.05, 0.333, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 50, 333, 1000])
def test_walks_meet_at_any_t0(spacing: Spacing, t0: float, steps: int) -> None:
    forth, back = inversion_walk(spacing, steps, t0), denoising_walk(spacing, steps, t0)
    end = min(round(1000 * t0), 999)
    assert forth.count == back.count == min(max(1, round(steps * t0)), 999)
    assert forth.schedule.timesteps[forth.count] == back.schedule.timesteps[back.count - 1] == end
    for walk in (forth, back):
        t = walk.schedule.timesteps
        assert t[0] >= 0 and (np.diff(t) > 0).all()


@pytest.mark.parametrize(("solver", "order"), [(ddim, 1), (dpmpp_2m, 2)])
@pytest.mark.parametrize("towards", ["noise", "photo"])
def test_order_of_convergence(solver: Callable[..., Tensor], order: int, towards: str) -> None:
    """With twice the steps of equal log-SNR, the error falls by 2^order."""

    def error(count: int) -> float:
        log_snr = 0.5 * np.log(ALPHA_BAR / (1 - ALPHA_BAR))
        wanted = np.linspace(log_snr[600], log_snr[20], count + 1)[::-1]
        a = 1 / (1 + np.exp(-2 * wanted))
        variance = 0.3
        s = Schedule(np.arange(count + 1), a)
        steps = list(range(count + 1))[:: 1 if towards == "noise" else -1]
        x = torch.tensor((a[steps[0]] * variance + 1 - a[steps[0]]) ** 0.5)
        start, before = float(x), None
        for i, target in pairwise(steps):
            v = a[i] * variance + 1 - a[i]
            eps = (1 - a[i]) ** 0.5 * x / v
            x0 = (x - (1 - a[i]) ** 0.5 * eps) / a[i] ** 0.5
            x, before = solver(s, i, target, x, x0, before), x0
        end = (a[steps[-1]] * variance + 1 - a[steps[-1]]) ** 0.5
        return abs(float(x) / start - end / start)

    torch.set_default_dtype(torch.float64)
    try:
        ratio = error(32) / error(64)
    finally:
        torch.set_default_dtype(torch.float32)
    assert 0.85 * 2**order < ratio < 1.25 * 2**order


@pytest.mark.parametrize("solver", get_args(DecodeSolver))
def test_a_walk_of_known_data_ends_at_the_photo(solver: DecodeSolver, images: Images) -> None:
    """Where the predicted x_0 is always the photo, every solver returns the photo exactly."""
    photo = images(2).double()
    walk = denoising_walk("quadratic", 10, 0.5)
    x_t0 = q_sample(walk.schedule, walk.count - 1, photo, images(2, seed=1).double())

    def eps(x: Tensor, t: Tensor) -> Tensor:
        a = torch.from_numpy(ALPHA_BAR)[t].view(-1, 1, 1, 1)
        return (x - a.sqrt() * photo) / (1 - a).sqrt()

    torch.testing.assert_close(sample(eps, x_t0, solver, walk), photo, atol=1e-9, rtol=0)


@pytest.mark.parametrize("solver", get_args(EncodeSolver))
def test_inversion_ends_at_the_noise_of_t0(solver: EncodeSolver) -> None:
    """The exact inverse of Gaussian data scales x by the ratio of the deviations."""
    photo = torch.full((1, 3, 2, 2), 0.4, dtype=torch.float64)
    x = INVERTERS[solver](gaussian_eps(0.25), photo, "quadratic", 400, 0.5, None)
    expected = photo * deviation(500, 0.25) / deviation(0, 0.25)
    torch.testing.assert_close(x, expected, atol=0.01, rtol=0)


def test_fixed_point_inversion_is_exact_for_ddim(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, eps = 0.5 * images(2, 3).double(), gaussian_eps(1.0)
    walk = denoising_walk("quadratic", 10, 0.5)

    def error(solver: EncodeSolver) -> float:
        x_t0 = INVERTERS[solver](eps, photos, "quadratic", 10, 0.5, None)
        return float((sample(eps, x_t0, "ddim", walk) - photos).abs().max())

    assert error("fixed_point") < 0.6 * error("ddim")
    monkeypatch.setattr(sampling, "FIXED_POINT_ITERATIONS", 60)
    assert error("fixed_point") < 1e-6


@pytest.mark.parametrize("solver", get_args(EncodeSolver))
def test_progress_counts_every_network_call(solver: EncodeSolver, images: Images) -> None:
    calls, seen = [], []

    def eps(x: Tensor, t: Tensor) -> Tensor:
        calls.append(int(t[0]))
        return torch.zeros_like(x)

    def progress(done: int, total: int) -> None:
        seen.append((done, total))

    INVERTERS[solver](eps, images(1), "quadratic", 8, 0.5, progress)
    total = 4 * (FIXED_POINT_ITERATIONS if solver == "fixed_point" else 1)
    assert inversion_calls(solver, "quadratic", 8, 0.5) == len(calls) == total
    assert seen == [(n, total) for n in range(1, total + 1)]


def test_inversion_to_pure_noise() -> None:
    """A published schedule ends at alpha_bar 0 for t0 = 1, where the log-SNR is infinite."""
    photo = torch.full((1, 3, 2, 2), 0.4)
    x = INVERTERS["dpmpp_2m"](gaussian_eps(1.0), photo, "leading", 10, 1.0, None)
    assert torch.isfinite(x).all()


def test_a_solver_for_every_choice() -> None:
    assert set(SOLVERS) == set(get_args(DecodeSolver))
    assert set(INVERTERS) == set(get_args(EncodeSolver))

"""Schedules, DDIM and its inversion, the ancestral step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from osasis import diffusion
from osasis.bundles.base import Base
from osasis.diffusion import (
    EpsFn,
    Schedule,
    ddim_sample,
    image_schedule,
    steps_from,
    steps_to,
)
from osasis.sampling import INVERTERS

ALPHA_BAR = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))


def consistent_eps(x0: Tensor) -> EpsFn:
    """A noise predictor that implies this x0."""

    def eps(x: Tensor, t: Tensor) -> Tensor:
        a = torch.from_numpy(ALPHA_BAR)[t].to(x.dtype).view(-1, 1, 1, 1)
        return (x - a.sqrt() * x0) / (1 - a).sqrt()

    return eps


def test_a_step_of_known_noise() -> None:
    """A DDIM step keeps x_0 and the noise, and moves to the noise level of the next index."""
    x0, noise = torch.full((1, 3, 4, 4), 0.3), torch.linspace(-2, 2, 48).view(1, 3, 4, 4)
    s = image_schedule(20)
    for i in (1, 5, 12):
        down, predicted = diffusion.ddim_step(s, i, diffusion.q_sample(s, i, x0, noise), noise)
        torch.testing.assert_close(predicted, x0, atol=1e-5, rtol=0)
        expected = diffusion.q_sample(s, i - 1, x0, noise)
        torch.testing.assert_close(down, expected, atol=1e-5, rtol=0)


def test_x0_is_clamped_on_request() -> None:
    s, x = image_schedule(10), torch.full((1, 3, 2, 2), 5.0)
    assert diffusion.predict_x0(s, 5, x, torch.zeros_like(x)).max() == 1
    assert diffusion.predict_x0(s, 5, x, torch.zeros_like(x), clip=False).min() > 5


def test_alpha_bar_past_the_ends_of_the_schedule() -> None:
    s = image_schedule(10)
    assert (s.alpha_bar(-1), s.alpha_bar(10)) == (1.0, 0.0)
    assert s.alpha_bar(9) == pytest.approx(ALPHA_BAR[900])


def test_prior_schedule_reaches_both_ends() -> None:
    t = diffusion.prior_schedule(50).timesteps
    assert (len(t), t[0], t[-1]) == (50, 0, 999) and (np.diff(t) > 0).all()
    assert diffusion.prior_schedule(1).timesteps.tolist() == [0]


@pytest.mark.parametrize("steps", [10, 20, 50, 100])
@pytest.mark.parametrize("t0", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
def test_denoising_takes_as_many_steps_as_inversion(steps: int, t0: float) -> None:
    s = image_schedule(steps)
    assert steps_from(s, t0) == steps_to(s, t0) == round(steps * t0)


def test_progress_counts_every_step(images: Callable[..., Tensor]) -> None:
    eps, s, x = consistent_eps(images(1)), image_schedule(10), images(1)
    seen: list[tuple[int, int]] = []
    ddim_sample(eps, x, s, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 10) for i in range(1, 11)]


def test_ancestral_step_of_known_noise() -> None:
    """The true noise gives the posterior mean, and x_0 at index 0."""
    s = Schedule(np.arange(1000), ALPHA_BAR)
    x0, noise = torch.full((1, 3, 4, 4), 0.3), torch.linspace(-2, 2, 48).view(1, 3, 4, 4)
    smallest = torch.cat([noise, -torch.ones_like(noise)], dim=1)
    i = 400
    x = diffusion.q_sample(s, i, x0, noise)
    mean, predicted = diffusion.ancestral_step(s, i, x, smallest, torch.zeros_like(x))
    torch.testing.assert_close(predicted, x0, atol=1e-5, rtol=0)
    a, b = ALPHA_BAR[i], ALPHA_BAR[i - 1]
    beta = 1 - a / b
    expected = (b**0.5 * beta * x0 + (1 - beta) ** 0.5 * (1 - b) * x) / (1 - a)
    torch.testing.assert_close(mean, expected.float(), atol=1e-5, rtol=0)
    # Interpolation -1 gives the posterior variance, 1 gives beta.
    for value, variance in ((-1.0, beta * (1 - b) / (1 - a)), (1.0, beta)):
        output = torch.cat([noise, torch.full_like(noise, value)], dim=1)
        moved, _ = diffusion.ancestral_step(s, i, x, output, torch.ones_like(x))
        torch.testing.assert_close(moved - mean, torch.full_like(x, variance**0.5))
    x = diffusion.q_sample(s, 0, x0, noise)
    last, _ = diffusion.ancestral_step(s, 0, x, smallest, torch.full_like(x, 9.0))
    torch.testing.assert_close(last, x0, atol=1e-5, rtol=0)


@torch.no_grad()
def test_numbers_of_a_full_loop(tiny_base: Base, images: Callable[..., Tensor]) -> None:
    """Regression test against stored sums."""
    photos = images(2, seed=1)
    z = tiny_base.encode_z(photos)
    x_t = INVERTERS["ddim"](tiny_base.eps_a(z), photos, "leading", 10, 0.5, None)
    back = ddim_sample(tiny_base.eps_a(z), x_t, image_schedule(10, "trailing"), start=4)
    noise = torch.linspace(-2, 2, 2 * tiny_base.config.z_channels).view(2, -1)
    s = diffusion.latent_schedule(10)
    latent = ddim_sample(tiny_base.diffae.latent_net, noise, s, clip=False)
    sums = [float(v.abs().mean()) for v in (z, x_t, back, latent)]
    assert sums == pytest.approx([5.47781, 0.17336, 0.4938, 109.88467], rel=1e-3)
    assert float((back - photos).abs().mean()) == pytest.approx(0.20481, abs=1e-3)

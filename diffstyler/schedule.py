"""The noise schedule, its timesteps, and the DDIM step (DDIM, Eq. 12 with sigma = 0).

alpha_bar is the cumulative product of 1 - beta. A state of the walk is at a timestep, or at the
end, ``final_alpha``, where it counts as the latent of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

TRAIN_STEPS = 1000
Prediction = Literal["epsilon", "v_prediction"]


def leading_timesteps(steps: int, offset: int = 1, total: int = TRAIN_STEPS) -> tuple[int, ...]:
    """Ascending timesteps with the stride total // steps from ``offset``: 50 steps: 1, 21, ...."""
    stride = total // steps
    return tuple(offset + i * stride for i in range(steps))


@dataclass(frozen=True)
class Schedule:
    """alphas_cumprod: (T,) float32. final_alpha: alpha_bar of the walk's end.

    offset: the first timestep of a walk. prediction: what the UNet predicts.
    """

    alphas_cumprod: Tensor
    final_alpha: float
    offset: int
    prediction: Prediction

    def timesteps(self, steps: int) -> tuple[int, ...]:
        """Ascending timesteps of a walk of this many steps."""
        return leading_timesteps(steps, self.offset, len(self.alphas_cumprod))

    def alpha(self, t: int | None) -> float:
        """alpha_bar of a timestep; of None, the walk's end."""
        return self.final_alpha if t is None else float(self.alphas_cumprod[t])

    def to_eps(self, predicted: Tensor, x: Tensor, t: int) -> Tensor:
        """The UNet's prediction at x and t as a prediction of the noise."""
        if self.prediction == "epsilon":
            return predicted
        a = self.alpha(t)
        return a**0.5 * predicted + (1 - a) ** 0.5 * x

    def noised(self, z: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x_t, and what the UNet shall predict of it in training. t: (B,) integers."""
        a = self.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1).to(z)
        x_t = a.sqrt() * z + (1 - a).sqrt() * noise
        if self.prediction == "epsilon":
            return x_t, noise
        return x_t, a.sqrt() * noise - (1 - a).sqrt() * z


def ddim_step(x: Tensor, eps: Tensor, alpha: float, alpha_to: float) -> Tensor:
    """Move x from alpha_bar ``alpha`` to ``alpha_to``, in either direction, without clipping."""
    x_0 = (x - (1 - alpha) ** 0.5 * eps) / alpha**0.5
    return alpha_to**0.5 * x_0 + (1 - alpha_to) ** 0.5 * eps

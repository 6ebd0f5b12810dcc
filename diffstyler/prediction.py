"""One forward pass of the UNet for rows of any adapters, prompts and photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffstyler.adapter import AdapterBank
from diffstyler.attention import RowPlan, RowSettings, row_plan
from diffstyler.base import Base
from osasis.arithmetic import Arithmetic, autocast

NO_ADAPTERS = AdapterBank({})


@dataclass(frozen=True)
class Row:
    """One row of a batch. x: (C, h, w), a noised latent. context: (N, D), a text embedding."""

    x: Tensor
    context: Tensor
    settings: RowSettings = field(default_factory=RowSettings)


def run_unet(base: Base, x: Tensor, t: Tensor, context: Tensor, plan: RowPlan) -> Tensor:
    """What the UNet predicts of x (R, C, h, w) at t (R,) with texts (R, N, D), float32."""
    dtype = base.unet.dtype
    with row_plan(plan):
        predicted: Tensor = base.unet(
            x.to(dtype), t, encoder_hidden_states=context.to(dtype)
        ).sample
    return predicted.float()


@torch.no_grad()
def predict_eps(
    base: Base,
    rows: Sequence[Row],
    t: int,
    bank: AdapterBank = NO_ADAPTERS,
    arithmetic: Arithmetic = "float32",
) -> Tensor:
    """The predicted noise (R, C, h, w) of rows at timestep t.

    arithmetic: of the forward pass; float32 computes in the weights' dtype.
    """
    x = torch.stack([row.x for row in rows])
    context = torch.stack([row.context for row in rows])
    plan = RowPlan.of([row.settings for row in rows], bank, x.device)
    times = torch.full((len(rows),), t, device=x.device)
    # Convolutions of a fresh process on a GPU would use TF32.
    with autocast(x.device, arithmetic):
        predicted = run_unet(base, x, times, context, plan)
    return base.schedule.to_eps(predicted, x, t)

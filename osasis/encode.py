"""Encoding of photos: z and the inversion with epsilon_A, independent of the style."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from osasis.arithmetic import Arithmetic, Precision, autocast, resolve
from osasis.bundles.base import Base
from osasis.choices import EncodeSolver, Spacing
from osasis.diffusion import Progress
from osasis.mix import Mix
from osasis.sampling import FIXED_POINT_ITERATIONS, INVERTERS, inversion_calls
from osasis.settings import BATCH_SIZES, TrainSettings


@dataclass(frozen=True)
class EncodePlan:
    """Parameters of ``encode``. t0: fraction of the schedule; steps: of the full schedule."""

    t0: float
    steps: int
    arithmetic: Arithmetic = "float32"
    spacing: Spacing = "trailing"
    solver: EncodeSolver = "ddim"

    @property
    def calls(self) -> int:
        """Network calls of an inversion of a full schedule."""
        return self.steps * (FIXED_POINT_ITERATIONS if self.solver == "fixed_point" else 1)


def encode_plan(
    mix: Mix | None,
    settings: TrainSettings,
    device: torch.device,
    precision: Precision | None = None,
) -> EncodePlan:
    """The plan for a mix (None: a mix without overrides) on a device.

    settings: of the mix's first style, the defaults of fields that the mix does not set.
    precision: overrides the settings' precision.
    """
    t0, steps, spacing, solver = (
        (mix.t0, mix.encode_steps, mix.spacing, mix.encode_solver) if mix else (None,) * 4
    )
    solver = solver or settings.encode_solver
    if solver == "fixed_point" and steps is None:
        # It is exact for as many denoising steps.
        steps = (mix and mix.decode_steps) or settings.stylize_decode_steps
    return EncodePlan(
        t0 or settings.t0,
        steps or settings.stylize_encode_steps,
        resolve(precision or settings.precision, device),
        spacing or settings.spacing,
        solver,
    )


@dataclass(frozen=True)
class Encodings:
    """Encoded photos, independent of the style.

    photo, x_t0: (B, 3, H, W). z: (B, D). plan: parameters of the encoding.
    """

    photo: Tensor
    z: Tensor
    x_t0: Tensor
    plan: EncodePlan

    def take(self, index: slice | Tensor) -> Encodings:
        return replace(self, photo=self.photo[index], z=self.z[index], x_t0=self.x_t0[index])

    def own(self) -> Encodings:
        """A copy that does not keep a larger batch's tensors in memory."""
        return replace(self, photo=self.photo.clone(), z=self.z.clone(), x_t0=self.x_t0.clone())

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.photo, self.z, self.x_t0))


@torch.no_grad()
def encode(
    base: Base,
    photos: Tensor,
    plan: EncodePlan,
    *,
    progress: Progress | None = None,
) -> Encodings:
    """Encode photos (B, 3, H, W) in [-1, 1]: z, and inversion with epsilon_A to t0 (Eq. 7)."""
    invert = INVERTERS[plan.solver]
    calls = inversion_calls(plan.solver, plan.spacing, plan.steps, plan.t0)
    z = photos.new_empty(len(photos), base.config.z_channels)
    x_t0 = torch.empty_like(photos)
    chunks = passes(len(photos), largest_pass(base.device))
    with autocast(base.device, plan.arithmetic):
        for k, rows in enumerate(chunks):
            report = progress_from(progress, k * calls, len(chunks) * calls)
            x = photos[rows]
            z[rows] = code = base.encode_z(x).float()
            x_t0[rows] = invert(
                base.eps_a(code), x, plan.spacing, plan.steps, plan.t0, report
            ).float()
    return Encodings(photos, z, x_t0, plan)


def largest_pass(device: torch.device) -> int:
    """Most images per forward pass.

    On the CPU a pass takes one image: the batch size selects the convolution kernel and so the
    rounding, visibly in bfloat16, and an image must not depend on the others of its batch.
    """
    return BATCH_SIZES["cpu" if device.type == "cpu" else "cuda"]


def passes(count: int, size: int) -> list[Tensor]:
    """Row indices of each forward pass over ``count`` images, ``size`` at most in each.

    The last pass is padded with its last row to a power of two, so that few sizes occur.
    """
    found = []
    for start in range(0, count, size):
        rows = min(size, count - start)
        padded = min(size, 1 << (rows - 1).bit_length())
        found.append(torch.arange(start, start + padded).clamp_max(start + rows - 1))
    return found


def progress_from(progress: Progress | None, before: int, total: int) -> Progress:
    """A callback that reports the steps of one pass as steps ``before + done`` of ``total``."""

    def report(done: int, _: int) -> None:
        if progress is not None:
            progress(before + done, total)

    return report

"""Stylization: two pure steps, ``encode`` (independent of style) and ``decode``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import functional_call

from osasis.base import Base
from osasis.diffusion import (
    EpsFn,
    Progress,
    Schedule,
    ddim_invert,
    ddim_step,
    image_schedule,
    steps_to,
)
from osasis.errors import UserError
from osasis.mix import Mix, cutoff_weights
from osasis.precision import autocast
from osasis.settings import TrainSettings
from osasis.style import Style
from osasis.train import back_steps, spn_step

ENCODE_STEPS = 100
DECODE_STEPS = 50


@dataclass(frozen=True)
class Encodings:
    """What ``decode`` needs of photos; it does not depend on the style.

    photo, x_t0: (B, 3, H, W); z: (B, D). t0 and steps say how x_t0 was reached.
    """

    photo: Tensor
    z: Tensor
    x_t0: Tensor
    t0: float
    steps: int

    def take(self, index: slice | Tensor) -> Encodings:
        return replace(self, photo=self.photo[index], z=self.z[index], x_t0=self.x_t0[index])


@torch.no_grad()
def encode(
    base: Base,
    photos: Tensor,
    *,
    t0: float = 0.5,
    steps: int = ENCODE_STEPS,
    precision: str = "float32",
    progress: Progress | None = None,
) -> Encodings:
    """Encode photos (B, 3, H, W) in [-1, 1]: z, and inversion with epsilon_A to t0 (Eq. 7)."""
    schedule = image_schedule(steps)
    with autocast(base.device, precision):
        z = base.encode_z(photos).float()
        x_t0 = ddim_invert(base.eps_a(z), photos, schedule, steps_to(schedule, t0), progress)
    return Encodings(photos, z, x_t0.float(), t0, steps)


@torch.no_grad()
def decode(
    base: Base,
    encodings: Encodings,
    mix: Mix,
    styles: Mapping[str, Style],
    *,
    masks: Mapping[str, Tensor] | None = None,
    text_edits: Mapping[str, Tensor] | None = None,
    precision: str = "float32",
    progress: Progress | None = None,
) -> Tensor:
    """Decode encodings with a mix of styles (Eq. 8, 12-14, f_ch of Sec. 3.4).

    styles: every style that the mix names. masks: (H, W) in [0, 1], by the names in the mix.
    text_edits: (D,) directions of z_in by name. Returns (B, 3, H, W) in [-1, 1].
    Raises UserError naming every problem of the mix.
    """
    _check(base, mix, styles, masks or {}, text_edits or {})
    chosen = [styles[s.style] for s in mix.styles]
    lead = chosen[0].settings
    schedule = image_schedule(mix.decode_steps or DECODE_STEPS, lead.spacing)
    t0 = mix.t0 if mix.t0 is not None else encodings.t0
    z_in = encodings.z
    if mix.text_edit is not None:
        z_in = z_in + mix.text_amount * (text_edits or {})[mix.text_edit].to(z_in)
    with autocast(base.device, precision):
        predictors, shares = _predictors(base, mix, chosen, masks or {}, z_in)
        add_structure = _structure(base, mix, chosen, shares, encodings.photo, schedule, t0)
        x = encodings.x_t0
        count = back_steps(schedule, t0)
        for done, i in enumerate(range(count - 1, -1, -1), start=1):
            x = add_structure(x, i)
            t = schedule.timestep(i, x)
            eps = sum((share * p(x, t).float() for p, share in zip(predictors, shares, strict=True)))
            x, _ = ddim_step(schedule, i, x, eps)
            if progress is not None:
                progress(done, count)
    return x.clamp(-1, 1)


def level_conditions(z_in: Tensor, z_style: Tensor, weights: Sequence[float]) -> Tensor:
    """z at each resolution level (finest first) and in the middle block.

    z_in, z_style: (B, D). weights: z_style's share at each level; the middle takes z_in.
    Returns (B, levels + 1, D).
    """
    share = z_in.new_tensor([*weights, 0.0]).view(1, -1, 1)
    return share * z_style[:, None] + (1 - share) * z_in[:, None]


def blended_weights(
    base: Base, styles: Sequence[Style], shares: Sequence[float], strength: float
) -> dict[str, Tensor]:
    """UNet parameters of epsilon_A + strength * sum(share * delta)."""
    changed: dict[str, Tensor] = {}
    params = dict(base.diffae.unet.named_parameters())
    for style, share in zip(styles, shares, strict=True):
        for key, delta in style.delta.items():
            own = changed.get(key, params[key])
            changed[key] = own + (strength * share) * delta.view_as(own)
    return changed


def _predictors(
    base: Base, mix: Mix, styles: list[Style], masks: Mapping[str, Tensor], z_in: Tensor
) -> tuple[list[EpsFn], list[Tensor]]:
    """Noise predictors and each one's share, a scalar or (1, 1, H, W)."""
    relative = [s.weight / sum(s.weight for s in mix.styles) for s in mix.styles]
    one = z_in.new_ones(())
    if mix.blend == "weights" and not any(s.mask for s in mix.styles):
        z_style = sum(r * s.z_style for r, s in zip(relative, styles, strict=True))
        weights = blended_weights(base, styles, relative, mix.strength)
        return [_predictor(base, weights, z_in, z_style, _levels(base, mix, styles[0]))], [one]
    predictors = [
        _predictor(
            base,
            blended_weights(base, [s], [1.0], mix.strength),
            z_in,
            s.z_style,
            _levels(base, mix, s),
        )
        for s in styles
    ]
    shares, rest = _mask_shares(mix, masks, z_in)
    if rest is not None:
        predictors.append(base.eps_a(z_in))
        shares.append(rest)
    return predictors, shares


def _predictor(
    base: Base, weights: dict[str, Tensor], z_in: Tensor, z_style: Tensor, levels: Sequence[float]
) -> EpsFn:
    z = level_conditions(z_in, z_style.expand_as(z_in), levels)
    return lambda x, t: functional_call(base.diffae.unet, weights, (x, t, z))


def _levels(base: Base, mix: Mix, style: Style) -> Sequence[float]:
    if mix.level_weights is not None:
        return mix.level_weights
    cutoff = mix.content_cutoff or suggested_cutoff(base, style.settings)
    return cutoff_weights(cutoff, base.config)


def suggested_cutoff(base: Base, settings: TrainSettings) -> int:
    """The style's own content cutoff, else the published one (32 at 256 px) at this size."""
    return settings.content_cutoff or max(1, base.config.image_size // 8)


def _mask_shares(
    mix: Mix, masks: Mapping[str, Tensor], like: Tensor
) -> tuple[list[Tensor], Tensor | None]:
    """Each style's share at each pixel, and the photo's own where no mask covers.

    Where masks overlap, weights decide; where the strongest mask is soft, the photo shows.
    """
    if not any(s.mask for s in mix.styles):
        total = sum(s.weight for s in mix.styles)
        return [like.new_tensor(s.weight / total) for s in mix.styles], None
    covers = [
        masks[s.mask].to(like).clamp(0, 1)[None, None] if s.mask else like.new_ones(1, 1, 1, 1)
        for s in mix.styles
    ]
    covers = list(torch.broadcast_tensors(*covers))
    coverage = torch.stack(covers).amax(dim=0)
    weighted = [s.weight * c for s, c in zip(mix.styles, covers, strict=True)]
    total = torch.stack(weighted).sum(dim=0).clamp_min(1e-12)
    return [coverage * w / total for w in weighted], 1 - coverage


def _structure(
    base: Base,
    mix: Mix,
    styles: list[Style],
    shares: list[Tensor],
    photo: Tensor,
    schedule: Schedule,
    t0: float,
) -> Callable[[Tensor, int], Tensor]:
    """The SPN's addition to x_t at each step (Eq. 12-14), shared among the styles.

    Where the SPN's time is the timestep, its sum over the walk is kept the same whatever the
    number of steps; the published code adds it in full at every step.
    """
    if mix.blend == "weights" and len(shares) == 1:
        total = sum(s.weight for s in mix.styles)
        shares = [photo.new_tensor(s.weight / total) for s in mix.styles]
    parts = []
    for style, share in zip(styles, shares, strict=False):
        s = style.settings
        scale = mix.structure if mix.structure is not None else s.spn_weight
        if s.spn_time == "timestep":
            trained = back_steps(image_schedule(s.decode_steps, s.spacing), s.t0)
            scale *= trained / back_steps(schedule, t0)
        parts.append((style.spn_module(base.device), s.spn_time, share * scale * mix.strength))

    def add(x: Tensor, i: int) -> Tensor:
        for net, spn_time, scale in parts:
            step = torch.full((len(photo),), spn_step(schedule, i, spn_time), device=photo.device)
            x = x + scale * net(photo, step).float()
        return x

    return add


def _check(
    base: Base,
    mix: Mix,
    styles: Mapping[str, Style],
    masks: Mapping[str, Tensor],
    text_edits: Mapping[str, Tensor],
) -> None:
    problems = mix.problems(base.config)
    problems += [f"style {s.style!r} is not given" for s in mix.styles if s.style not in styles]
    problems += [
        f"mask {s.mask!r} is not given" for s in mix.styles if s.mask and s.mask not in masks
    ]
    if mix.text_edit is not None and mix.text_edit not in text_edits:
        problems.append(f"text_edit {mix.text_edit!r} is not given")
    if problems:
        raise UserError("mix: " + "; ".join(problems))

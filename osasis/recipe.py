"""What a mix means on a base: noise predictors, structure terms and palettes with their shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from osasis.bundles.base import Base
from osasis.bundles.style import Style
from osasis.choices import DecodeSolver
from osasis.diffusion import ROUNDING, Schedule
from osasis.encode import EncodePlan
from osasis.mix import Mix, cutoff_weights
from osasis.networks.adapters import WeightedAdapters
from osasis.networks.sizes import DiffAEConfig
from osasis.networks.spn import StructurePreservingNetwork
from osasis.objective import spn_step
from osasis.palette import Palette, transfer_palette
from osasis.sampling import Walk, denoising_walk
from osasis.settings import TrainSettings, stride_problem
from osasis.validation import InvalidInputError, Problem


@dataclass(frozen=True)
class NoisePredictor:
    """One of a mix's noise predictors.

    adapters: of epsilon_B; low_rank: whether they are low-rank factors. levels: share of z_style at
    each resolution level, finest first. share: weight of the prediction in the mix's sum, a scalar
    or per pixel (1, 1, H, W).
    """

    adapters: WeightedAdapters
    z_style: Tensor
    levels: Sequence[float]
    share: Tensor
    low_rank: bool


@dataclass(frozen=True)
class StructureTerm:
    """One style's SPN and the factor of its output, a scalar or per pixel."""

    spn: StructurePreservingNetwork
    spn_time: str
    scale: Tensor

    def at(self, features: Tensor, schedule: Schedule, i: int) -> Tensor:
        """The term of x_t at index i (Eq. 12-14). features: ``spn.features`` of the photos."""
        time = spn_step(schedule, i, self.spn_time, features)
        return self.scale * self.spn.at(features, time).float()


@dataclass(frozen=True, eq=False)
class Recipe:
    """A mix, resolved for photos that are encoded by a plan. Made by ``make_recipe``.

    photo_share: share of the photo itself, per pixel, where masks do not cover it. palettes: with
    their shares. edit: (D,), added to z_in.
    """

    plan: EncodePlan
    walk: Walk
    solver: DecodeSolver
    predictors: Sequence[NoisePredictor]
    photo_share: Tensor | None
    terms: Sequence[StructureTerm]
    palettes: Sequence[tuple[Palette, Tensor]]
    edit: Tensor | None

    @property
    def low_rank(self) -> bool:
        return all(p.low_rank for p in self.predictors)

    def with_palettes(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] with their colours moved towards the palettes."""
        change = torch.zeros_like(images)
        for palette, share in self.palettes:
            change = change + share * (transfer_palette(images, palette, share) - images)
        return images + change


def make_recipe(
    base: Base,
    mix: Mix,
    styles: Mapping[str, Style],
    plan: EncodePlan,
    *,
    masks: Mapping[str, Tensor] | None = None,
    text_edits: Mapping[str, Tensor] | None = None,
) -> Recipe:
    """Resolve a mix for photos encoded by ``plan``.

    styles: by the names in the mix, on the base's device; the first style's settings are the
    defaults of fields that the mix does not set. masks: (H, W) in [0, 1], by the names in the mix.
    text_edits: (D,) directions of z_in by name. Raises InvalidInputError naming every problem.
    """
    _validate(base, mix, styles, plan, masks or {}, text_edits or {})
    chosen = [styles[s.style] for s in mix.styles]
    settings = chosen[0].settings
    walk = denoising_walk(plan.spacing, mix.decode_steps or settings.stylize_decode_steps, plan.t0)
    strength = settings.strength if mix.strength is None else mix.strength
    shares, photo_share = _pixel_shares(mix, masks or {}, chosen[0].z_style)
    return Recipe(
        plan,
        walk,
        mix.decode_solver or settings.decode_solver,
        _predictors(base, mix, chosen, strength, shares),
        photo_share,
        _structure_terms(base, mix, chosen, strength, shares, walk),
        _palettes(mix, chosen, strength, shares),
        None if mix.text_edit is None else mix.text_amount * (text_edits or {})[mix.text_edit],
    )


def mix_defaults(settings: TrainSettings, config: DiffAEConfig) -> dict[str, Any]:
    """What the fields of a mix are that it leaves None, with a style of these settings."""
    cutoff = settings.content_cutoff or config.suggested_cutoff
    exact = settings.encode_solver == "fixed_point"  # as in ``encode_plan``
    return {
        "content_cutoff": cutoff,
        "level_weights": cutoff_weights(cutoff, config),
        "structure": settings.spn_weight,
        "t0": settings.t0,
        "strength": settings.strength,
        "palette": settings.palette,
        "encode_steps": settings.stylize_decode_steps if exact else settings.stylize_encode_steps,
        "decode_steps": settings.stylize_decode_steps,
        "spacing": settings.spacing,
        "encode_solver": settings.encode_solver,
        "decode_solver": settings.decode_solver,
    }


def level_conditions(z_in: Tensor, z_style: Tensor, weights: Sequence[float]) -> Tensor:
    """z at each resolution level (finest first) and in the middle block.

    z_in: (B, D). z_style: (B, D) or (1, D). weights: z_style's share at each level; the middle
    takes z_in. Returns (B, levels + 1, D).
    """
    share = z_in.new_tensor([*weights, 0.0]).view(1, -1, 1)
    return share * z_style[:, None] + (1 - share) * z_in[:, None]


def relative_weights(mix: Mix) -> list[float]:
    """The styles' weights, scaled to sum to 1."""
    total = sum(s.weight for s in mix.styles)
    return [s.weight / total for s in mix.styles]


def _predictors(
    base: Base, mix: Mix, styles: list[Style], strength: float, shares: list[Tensor]
) -> list[NoisePredictor]:
    """One predictor that blends the styles' weights, or one for each style."""
    relative = relative_weights(mix)
    if mix.blend == "weights" and not any(s.mask for s in mix.styles):
        adapters = [(s.delta, strength * r) for s, r in zip(styles, relative, strict=True)]
        z_style = torch.stack([r * s.z_style for r, s in zip(relative, styles, strict=True)]).sum(0)
        levels = _levels(base, mix, styles[0], strength)
        low_rank = all(s.low_rank for s in styles)
        return [NoisePredictor(adapters, z_style, levels, z_style.new_ones(()), low_rank)]
    return [
        NoisePredictor(
            [(s.delta, strength)], s.z_style, _levels(base, mix, s, strength), share, s.low_rank
        )
        for s, share in zip(styles, shares, strict=True)
    ]


def _levels(base: Base, mix: Mix, style: Style, strength: float) -> Sequence[float]:
    """z_style's share at each level, scaled by the strength, so that strength 0 gives the photo."""
    weights = mix.level_weights
    if weights is None:
        cutoff = mix.content_cutoff or style.settings.content_cutoff or base.config.suggested_cutoff
        weights = cutoff_weights(cutoff, base.config)
    return [w * min(1.0, strength) for w in weights]


def _pixel_shares(
    mix: Mix, masks: Mapping[str, Tensor], like: Tensor
) -> tuple[list[Tensor], Tensor | None]:
    """Each style's share at each pixel, and the photo's share; None where masks cover every pixel.

    Overlapping masks share a pixel by weight. The photo's share is 1 minus the largest mask value.
    """
    if not any(s.mask for s in mix.styles):
        return [like.new_tensor(r) for r in relative_weights(mix)], None
    covers = torch.broadcast_tensors(
        *(
            masks[s.mask].to(like).clamp(0, 1)[None, None] if s.mask else like.new_ones(1, 1, 1, 1)
            for s in mix.styles
        )
    )
    coverage = torch.stack(covers).amax(dim=0)
    weighted = [s.weight * c for s, c in zip(mix.styles, covers, strict=True)]
    total = torch.stack(weighted).sum(dim=0).clamp_min(1e-12)
    uncovered = 1 - coverage if bool((coverage < 1).any()) else None
    return [coverage * w / total for w in weighted], uncovered


def _structure_terms(
    base: Base,
    mix: Mix,
    styles: list[Style],
    strength: float,
    shares: list[Tensor],
    walk: Walk,
) -> list[StructureTerm]:
    """The structure terms of the styles.

    With ``spn_time`` "timestep", terms are scaled so that their sum over all steps does not depend
    on the number of steps; the published code adds them in full at every step.
    """
    terms = []
    for style, share in zip(styles, shares, strict=True):
        s = style.settings
        scale = mix.structure if mix.structure is not None else s.spn_weight
        if s.spn_time == "timestep":
            scale *= denoising_walk(s.spacing, s.decode_steps, s.t0).count / walk.count
        if s.spn_weight > 0 and scale * strength > 0:
            spn = style.spn_module(base.device)
            terms.append(StructureTerm(spn, s.spn_time, share * scale * strength))
    return terms


def _palettes(
    mix: Mix, styles: list[Style], strength: float, shares: list[Tensor]
) -> list[tuple[Palette, Tensor]]:
    """Palettes to transfer and their shares, scaled by the strength like z_style's."""
    found = []
    for style, share in zip(styles, shares, strict=True):
        amount = style.settings.palette if mix.palette is None else mix.palette
        if style.palette is not None and amount * strength > 0:
            found.append((style.palette, share * amount * min(1.0, strength)))
    return found


def _validate(
    base: Base,
    mix: Mix,
    styles: Mapping[str, Style],
    plan: EncodePlan,
    masks: Mapping[str, Tensor],
    text_edits: Mapping[str, Tensor],
) -> None:
    problems = mix.problems_on(base.config)
    size = base.config.image_size
    for i, share in enumerate(mix.styles):
        name = share.mask
        if share.style not in styles:
            message = f"style {share.style!r} is not given"
            problems.append(Problem(f"styles[{i}].style", share.style, message))
        if name is None:
            continue
        field = f"styles[{i}].mask"
        if name not in masks:
            problems.append(Problem(field, name, f"mask {name!r} is not given"))
        elif masks[name].shape != (size, size):
            shape = tuple(masks[name].shape)
            message, allowed = f"mask {name!r} is {shape}", f"({size}, {size})"
            problems.append(Problem(field, shape, message, allowed))
    if mix.t0 is not None and abs(mix.t0 - plan.t0) > ROUNDING:
        message = f"t0 is {mix.t0}, but the photos were encoded to t0 = {plan.t0}"
        problems.append(Problem("t0", mix.t0, message))
    problems += _plan_problems(mix, plan)
    if mix.text_edit is not None and mix.text_edit not in text_edits:
        message = f"text_edit {mix.text_edit!r} is not given"
        problems.append(Problem("text_edit", mix.text_edit, message))
    if problems:
        raise InvalidInputError("mix", problems)


def _plan_problems(mix: Mix, plan: EncodePlan) -> list[Problem]:
    """Fields of a mix that contradict the encoding or its spacing."""
    found = [
        Problem(name, wanted, f"{name} is {wanted}, but the photos were encoded with {used}")
        for name, wanted, used in (
            ("spacing", mix.spacing, plan.spacing),
            ("encode_solver", mix.encode_solver, plan.solver),
        )
        if wanted not in (None, used)
    ]
    if plan.spacing == "leading":
        found += [
            Problem(name, steps, problem)
            for name, steps in (("encode_steps", plan.steps), ("decode_steps", mix.decode_steps))
            if steps is not None and (problem := stride_problem(steps))
        ]
    return found

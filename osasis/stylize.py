"""Stylization as two pure functions: ``encode`` (independent of the style) and ``decode``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import functional_call

from osasis.arithmetic import Arithmetic, Precision, autocast, resolve
from osasis.bundles.base import Base
from osasis.bundles.style import Style
from osasis.choices import EncodeSolver, Spacing
from osasis.diffusion import ROUNDING, Progress, Schedule, predict_x0
from osasis.mix import Mix, cutoff_weights
from osasis.networks.spn import StructurePreservingNetwork
from osasis.palette import Palette, transfer_palette
from osasis.sampling import INVERTERS, SOLVERS, Walk, denoising_walk, inversion_calls
from osasis.settings import BATCH_SIZES, TrainSettings, stride_problem
from osasis.train import spn_step
from osasis.validation import InvalidInputError, Problem


@dataclass(frozen=True)
class EncodePlan:
    """Parameters of ``encode``. t0: fraction of the schedule; steps: of the full schedule."""

    t0: float
    steps: int
    arithmetic: Arithmetic = "float32"
    spacing: Spacing = "trailing"
    solver: EncodeSolver = "ddim"


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
    codes, inverted = [], []
    with autocast(base.device, plan.arithmetic):
        for rows, report in _chunks(len(photos), base.device, calls, progress):
            x = photos[rows]
            z = base.encode_z(x).float()
            codes.append(z)
            x_t0 = invert(base.eps_a(z), x, plan.spacing, plan.steps, plan.t0, report)
            inverted.append(x_t0.float())
    z, x_t0 = (torch.cat(parts)[: len(photos)] for parts in (codes, inverted))
    return Encodings(photos, z, x_t0, plan)


@torch.no_grad()
def decode(
    base: Base,
    encodings: Encodings,
    mix: Mix,
    styles: Mapping[str, Style],
    *,
    masks: Mapping[str, Tensor] | None = None,
    text_edits: Mapping[str, Tensor] | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Decode encodings with a mix of styles (Eq. 8, 12-14, f_ch of Sec. 3.4).

    Computes in the arithmetic of the encodings' plan.
    styles: by the names in the mix; the first style's settings are the defaults of fields that the
    mix does not set. masks: (H, W) in [0, 1], by the names in the mix. text_edits: (D,) directions
    of z_in by name.
    Returns (B, 3, H, W) in [-1, 1]. Raises InvalidInputError naming every problem of the mix.
    """
    _validate(base, encodings, mix, styles, masks or {}, text_edits or {})
    chosen = [styles[s.style] for s in mix.styles]
    settings, plan = chosen[0].settings, encodings.plan
    walk = denoising_walk(plan.spacing, mix.decode_steps or settings.stylize_decode_steps, plan.t0)
    schedule = walk.schedule
    solve = SOLVERS[mix.decode_solver or settings.decode_solver]
    edit = None if mix.text_edit is None else (text_edits or {})[mix.text_edit]
    strength = settings.strength if mix.strength is None else mix.strength
    networks = _networks(base, mix, chosen, strength, masks or {}, encodings.photo)
    terms = _structure_terms(base, mix, chosen, strength, networks, walk)
    palettes = _palettes(mix, chosen, strength, networks)
    out = []
    with autocast(base.device, plan.arithmetic):
        for rows, report in _chunks(len(encodings.photo), base.device, walk.count, progress):
            photo, x = encodings.photo[rows], encodings.x_t0[rows]
            z_in = encodings.z[rows]
            if edit is not None:
                z_in = z_in + mix.text_amount * edit.to(z_in)
            features = [term.spn.features(photo) for term in terms]
            predictors = [n.predictor(base, z_in, photo, schedule) for n in networks]
            before = None
            for done, i in enumerate(range(walk.count - 1, -1, -1), start=1):
                for term, known in zip(terms, features, strict=True):
                    x = x + term.at(known, schedule, i)
                eps = torch.zeros_like(x)
                for network, predict in zip(networks, predictors, strict=True):
                    eps = eps + network.share * predict(x, i).float()
                x0 = predict_x0(schedule, i, x, eps)
                x, before = solve(schedule, i, i - 1, x, x0, before), x0
                report(done, walk.count)
            out.append(_with_palettes(x.clamp(-1, 1), palettes))
    return torch.cat(out)[: len(encodings.photo)]


def chunk_size(device: torch.device) -> int:
    """Images per forward pass; short chunks are padded to this size.

    The batch size selects the convolution kernel and so the rounding, visibly in bfloat16. With a
    fixed size, the result of an image does not depend on the other images of the batch.
    """
    return BATCH_SIZES["cpu" if device.type == "cpu" else "cuda"]


def _chunks(
    count: int, device: torch.device, steps: int, progress: Progress | None
) -> Iterator[tuple[Tensor, Progress]]:
    """Row indices of each chunk, the last one padded with the last row, and its progress.

    The progress counts the steps of all chunks.
    """
    size = chunk_size(device)
    for start in range(0, count, size):

        def report(done: int, _: int, before: int = start // size * steps) -> None:
            if progress is not None:
                progress(before + done, -(-count // size) * steps)

        yield torch.arange(start, start + size).clamp_max(count - 1), report


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


@dataclass(frozen=True)
class _Network:
    """One noise predictor of a mix. share: its weight in the sum, a scalar or per pixel.

    z_style None stands for the photo: its noise leads exactly to the photo. epsilon_A would give a
    reconstruction, which is greyer than the photo.
    """

    weights: dict[str, Tensor]
    z_style: Tensor | None
    levels: Sequence[float]
    share: Tensor

    def predictor(
        self, base: Base, z_in: Tensor, photo: Tensor, schedule: Schedule
    ) -> Callable[[Tensor, int], Tensor]:
        """The predicted noise as a function of x_t and the schedule's index."""
        if self.z_style is None:
            return lambda x, i: _noise_towards(photo, x, schedule.alpha_bar(i))
        z = level_conditions(z_in, self.z_style.expand_as(z_in), self.levels)
        unet = base.diffae.unet
        return lambda x, i: functional_call(unet, self.weights, (x, schedule.timestep(i, x), z))


def _noise_towards(photo: Tensor, x: Tensor, alpha_bar: float) -> Tensor:
    """The noise with which x_t predicts exactly ``photo`` as its x_0."""
    return (x - alpha_bar**0.5 * photo) / (1 - alpha_bar) ** 0.5


def _networks(
    base: Base,
    mix: Mix,
    styles: list[Style],
    strength: float,
    masks: Mapping[str, Tensor],
    like: Tensor,
) -> list[_Network]:
    relative = relative_weights(mix)
    if mix.blend == "weights" and not any(s.mask for s in mix.styles):
        z_style = torch.stack([r * s.z_style for r, s in zip(relative, styles, strict=True)]).sum(0)
        weights = blended_weights(base, styles, relative, strength)
        levels = _levels(base, mix, styles[0], strength)
        return [_Network(weights, z_style, levels, like.new_ones(()))]
    shares, uncovered = _pixel_shares(mix, masks, like)
    networks = [
        _Network(
            blended_weights(base, [s], [1.0], strength),
            s.z_style,
            _levels(base, mix, s, strength),
            share,
        )
        for s, share in zip(styles, shares, strict=True)
    ]
    if uncovered is not None:
        networks.append(_Network({}, None, (), uncovered))
    return networks


def relative_weights(mix: Mix) -> list[float]:
    """The styles' weights, scaled to sum to 1."""
    total = sum(s.weight for s in mix.styles)
    return [s.weight / total for s in mix.styles]


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


@dataclass(frozen=True)
class _StructureTerm:
    """One style's SPN and the factor of its output, a scalar or per pixel."""

    spn: StructurePreservingNetwork
    spn_time: str
    scale: Tensor

    def at(self, features: Tensor, schedule: Schedule, i: int) -> Tensor:
        """The term of x_t at index i (Eq. 12-14). features: ``spn.features`` of the photos."""
        time = spn_step(schedule, i, self.spn_time, features)
        return self.scale * self.spn.at(features, time).float()


def _structure_terms(
    base: Base,
    mix: Mix,
    styles: list[Style],
    strength: float,
    networks: list[_Network],
    walk: Walk,
) -> list[_StructureTerm]:
    """The structure terms of the styles.

    With ``spn_time`` "timestep", terms are scaled so that their sum over all steps does not depend
    on the number of steps; the published code adds them in full at every step.
    """
    terms = []
    for style, share in zip(styles, _style_shares(mix, networks), strict=True):
        s = style.settings
        scale = mix.structure if mix.structure is not None else s.spn_weight
        if s.spn_time == "timestep":
            scale *= denoising_walk(s.spacing, s.decode_steps, s.t0).count / walk.count
        if s.spn_weight > 0 and scale * strength > 0:
            spn = style.spn_module(base.device)
            terms.append(_StructureTerm(spn, s.spn_time, share * scale * strength))
    return terms


def _style_shares(mix: Mix, networks: list[_Network]) -> list[Tensor]:
    """Each style's share, a scalar or per pixel, also where one network blends several."""
    shares = [n.share for n in networks if n.z_style is not None]
    if len(shares) < len(mix.styles):
        return [shares[0] * r for r in relative_weights(mix)]
    return shares


def _palettes(
    mix: Mix, styles: list[Style], strength: float, networks: list[_Network]
) -> list[tuple[Palette, Tensor]]:
    """Palettes to transfer and their shares, scaled by the strength like z_style's."""
    found = []
    for style, share in zip(styles, _style_shares(mix, networks), strict=True):
        amount = style.settings.palette if mix.palette is None else mix.palette
        if style.palette is not None and amount * strength > 0:
            found.append((style.palette, share * amount * min(1.0, strength)))
    return found


def _with_palettes(images: Tensor, palettes: list[tuple[Palette, Tensor]]) -> Tensor:
    """Images in [-1, 1] with their colours moved towards the palettes."""
    change = torch.zeros_like(images)
    for palette, share in palettes:
        change = change + share * (transfer_palette(images, palette, share) - images)
    return images + change


def _validate(
    base: Base,
    encodings: Encodings,
    mix: Mix,
    styles: Mapping[str, Style],
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
    if mix.t0 is not None and abs(mix.t0 - encodings.plan.t0) > ROUNDING:
        message = f"t0 is {mix.t0}, but the photos were encoded to t0 = {encodings.plan.t0}"
        problems.append(Problem("t0", mix.t0, message))
    problems += _plan_problems(mix, encodings.plan)
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

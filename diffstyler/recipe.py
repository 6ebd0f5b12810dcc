"""What a mix means on a base: layers of styles, and settings of their sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffstyler.adapter import weighted_sum
from diffstyler.base import Base
from diffstyler.encodings import EncodePlan, Encodings
from diffstyler.mix_fields import mix_problems
from diffstyler.passes import Layer, Request
from diffstyler.prompts import tokenize
from diffstyler.settings import LayerSettings, SampleSettings
from diffstyler.style import Style
from diffstyler.stylize import decode
from osasis.mix import DIFFSTYLER_FIELDS, Mix
from osasis.validation import InvalidInputError, Problem


@dataclass(frozen=True, eq=False)
class Recipe:
    """A mix, resolved for photos that are encoded by a plan. Made by ``make_recipe``."""

    plan: EncodePlan
    layers: tuple[Layer, ...]
    settings: SampleSettings

    @property
    def low_rank(self) -> bool:
        """Adapters always are factors."""
        return True

    def requests(self, encodings: Encodings) -> list[Request]:
        """A request for each photo."""
        return [
            Request(item, self.layers, self.settings, self.plan.arithmetic)
            for item in encodings.items
        ]


def make_recipe(
    base: Base,
    mix: Mix,
    styles: Mapping[str, Style],
    plan: EncodePlan,
    *,
    masks: Mapping[str, Tensor] | None = None,
) -> Recipe:
    """Resolve a mix for photos encoded by ``plan``.

    styles: by the names in the mix, on the base's device; the first style's settings are the
    defaults of fields that the mix does not set. masks: (H, W) in [0, 1], by the names in the mix;
    later ones lie over earlier ones. Raises InvalidInputError naming every problem, and UserError
    for a mask that is black, or for a prompt that is too long.
    """
    masks = masks or {}
    problems = mix_problems(mix)
    problems += [
        Problem(f"styles[{i}].style", share.style, f"style {share.style!r} is not given")
        for i, share in enumerate(mix.styles)
        if share.style not in styles
    ]
    problems += [
        Problem(f"styles[{i}].mask", share.mask, f"mask {share.mask!r} is not given")
        for i, share in enumerate(mix.styles)
        if share.mask is not None and share.mask not in masks
    ]
    if problems:
        raise InvalidInputError(mix.subject, problems)
    changes = {
        name: value
        for name in ("structure", *DIFFSTYLER_FIELDS)
        if (value := getattr(mix, name)) is not None
    }
    settings = styles[mix.styles[0].style].settings.sampling(
        encode_steps=plan.steps, decode_steps=plan.decode_steps, encode_prompt=plan.prompt,
        **changes,
    )  # fmt: skip
    tokenize(base, settings.negative_prompt)
    layers = tuple(_layers(mix, styles, masks))
    for layer in layers:
        if layer.mask is not None:
            height, width = (side // base.latent_factor for side in layer.mask.shape)
            layer.mask_at((height, width), settings.mask_edges)
    return Recipe(plan, layers, settings)


def _layers(mix: Mix, styles: Mapping[str, Style], masks: Mapping[str, Tensor]) -> list[Layer]:
    """A layer for each style; for blended weights, one layer with the prompt of the first style."""
    chosen = [styles[s.style] for s in mix.styles]
    strength = 1.0 if mix.strength is None else mix.strength
    settings = [
        LayerSettings(
            prompt=style.prompt,
            strength=strength,
            guidance=share.guidance,
            start=share.span[0],
            end=share.span[1],
        )
        for style, share in zip(chosen, mix.styles, strict=True)
    ]
    weights = [s.weight for s in mix.styles]
    if any(s.mask for s in mix.styles):
        pixels = [None if s.mask is None else _to_bytes(masks[s.mask]) for s in mix.styles]
        return [
            Layer(style.adapter, own, mask, share.mask or "")
            for style, own, mask, share in zip(chosen, settings, pixels, mix.styles, strict=True)
        ]
    if mix.blend == "weights" and len(chosen) > 1:
        relative = [w / sum(weights) for w in weights]
        return [Layer(weighted_sum([s.adapter for s in chosen], relative), settings[0])]
    return [
        Layer(style.adapter, own, weight=weight)
        for style, own, weight in zip(chosen, settings, weights, strict=True)
    ]


def _to_bytes(mask: Tensor) -> Tensor:
    return (mask.clamp(0, 1) * 255).round().to(torch.uint8)


def rows_that_share_passes(recipes: Sequence[Recipe], pass_size: int) -> list[list[int]]:
    """Indices of the rows that ``decode_rows`` computes together, group by group."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, recipe in enumerate(recipes):
        own = None if pass_size > 1 else id(recipe)
        groups.setdefault((own, recipe.plan.arithmetic, recipe.plan.decode_steps), []).append(i)
    return list(groups.values())


def decode_rows(
    base: Base,
    rows: Sequence[tuple[Encodings, Recipe]],
    *,
    pass_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Decode encodings, each with its own recipe; the images in order, (B, 3, H, W) in [-1, 1].

    pass_size: most photos of a forward pass; with 1, an image is the same whatever else is decoded.
    Photos have one size.
    """
    requests = [request for e, recipe in rows for request in recipe.requests(e)]
    photos = [photo for e, _ in rows for photo in e.photos]
    return torch.stack(decode(base, requests, photos, pass_size, progress))

"""The mix: all parameters of one stylization, the same offline, over HTTP and on the page."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from osasis.diffusion import stride_timesteps
from osasis.errors import UserError, did_you_mean
from osasis.networks.sizes import DiffAEConfig

BLENDS = ("weights", "noise")


@dataclass(frozen=True)
class StyleShare:
    """One style's part in a mix.

    weight: relative to the other styles'. mask: name of the mask (a grey image) that confines
    the style; None is everywhere. Outside all masks the photo stays as it is.
    """

    style: str
    weight: float = 1.0
    mask: str | None = None


@dataclass(frozen=True)
class Mix:
    """Parameters of one stylization. None means: as the style was trained to be used.

    styles: one or more. blend: several styles as one network (``weights``, one pass) or as
    composed noise predictions (``noise``; masks always compose noise).
    content_cutoff: resolution levels at or above it take z_style, those below and the middle
    take z_in (f_ch of the paper). level_weights: the general form, z_style's share at each
    level, finest first; overrides content_cutoff.
    structure: lambda_SPN. t0: how much of the photo is noised away. strength: how much of
    epsilon_B's difference from epsilon_A; 0 reconstructs the photo.
    encode_steps, decode_steps: of a full schedule. text_edit, text_amount: a saved direction of
    z_in and how far to go. seed: of whatever is random.
    """

    styles: tuple[StyleShare, ...]
    blend: str = "weights"
    content_cutoff: int | None = None
    level_weights: tuple[float, ...] | None = None
    structure: float | None = None
    t0: float | None = None
    strength: float = 1.0
    encode_steps: int | None = None
    decode_steps: int | None = None
    text_edit: str | None = None
    text_amount: float = 1.0
    seed: int = 0

    @classmethod
    def of(cls, *styles: str, **fields: Any) -> Mix:
        """A mix of styles of equal weight."""
        return cls(styles=tuple(StyleShare(s) for s in styles), **fields)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Mix:
        """Build from JSON; problems are named all at once. Raises UserError."""
        if not isinstance(data, dict):
            raise UserError("mix: it must be an object with 'styles'")
        known = {f.name for f in dataclasses.fields(cls)}
        problems = [
            f"unknown field {k!r}{did_you_mean(str(k), known)}" for k in data if k not in known
        ]
        fields = {k: v for k, v in data.items() if k in known}
        fields["styles"], wrong = _shares(fields.get("styles"))
        levels = fields.get("level_weights")
        if isinstance(levels, list):
            fields["level_weights"] = tuple(levels)
        mix = cls(**fields)
        problems += wrong or []
        problems += [p for p in mix.problems() if not (wrong and p.startswith("styles is empty"))]
        if problems:
            raise UserError("mix: " + "; ".join(problems))
        return mix

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def problems(self, config: DiffAEConfig | None = None) -> list[str]:
        """What is wrong with this mix, one line each; with a base's sizes, checked against them."""
        found = []
        if not self.styles:
            found.append("styles is empty; name at least one style")
        if self.text_edit is not None and not isinstance(self.text_edit, str):
            found.append(f"text_edit is {self.text_edit!r}; it must be a name")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            found.append(f"seed is {self.seed!r}; it must be a whole number from 0")
        for i, share in enumerate(self.styles):
            if not _number(share.weight) or not 0 < share.weight <= 1000:
                found.append(f"styles[{i}].weight is {share.weight!r}; it must lie in (0, 1000]")
        if not isinstance(self.blend, str) or self.blend not in BLENDS:
            found.append(f"blend is {self.blend!r}; choose one of {', '.join(BLENDS)}")
        for name, low, high in (
            ("structure", 0.0, 10.0),
            ("t0", 0.05, 1.0),
            ("strength", 0.0, 4.0),
            ("text_amount", -10.0, 10.0),
            ("content_cutoff", 1, 4096),
        ):
            value = getattr(self, name)
            optional = name not in ("strength", "text_amount")
            if not (value is None and optional) and not (_number(value) and low <= value <= high):
                found.append(f"{name} is {value!r}; it must lie in [{low:g}, {high:g}]")
        for name in ("encode_steps", "decode_steps"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                found.append(f"{name} is {value!r}; it must be a whole number")
                continue
            try:
                stride_timesteps(value)
            except UserError as e:
                found.append(f"{name}: {e}")
        if self.level_weights is not None:
            found += self._level_problems(config)
        return found

    def _level_problems(self, config: DiffAEConfig | None) -> list[str]:
        if not isinstance(self.level_weights, tuple):
            return [f"level_weights is {self.level_weights!r}; it must be a list of numbers"]
        found = [
            f"level_weights[{i}] is {w!r}; it must lie in [0, 1]"
            for i, w in enumerate(self.level_weights)
            if not _number(w) or not 0 <= w <= 1
        ]
        if config is not None and len(self.level_weights) != config.levels:
            found.append(
                f"level_weights has {len(self.level_weights)} values; this base has "
                f"{config.levels} resolution levels"
            )
        return found


def cutoff_weights(cutoff: int, config: DiffAEConfig) -> tuple[float, ...]:
    """z_style's share at each level, finest first, for a content cutoff in pixels (f_ch)."""
    return tuple(
        1.0 if (config.image_size >> level) >= cutoff else 0.0 for level in range(config.levels)
    )


def _shares(items: Any) -> tuple[tuple[StyleShare, ...], list[str]]:
    """The styles of a mix's JSON, and what is wrong with them."""
    if items is None:
        return (), []
    if not isinstance(items, (list, tuple)):
        return (), [f"styles is {items!r}; it must be a list of ids or of objects with 'style'"]
    known = {f.name for f in dataclasses.fields(StyleShare)}
    shares, wrong = [], []
    for i, item in enumerate(items):
        share = {"style": item} if isinstance(item, str) else item
        if not isinstance(share, dict) or not isinstance(share.get("style"), str):
            wrong.append(f"styles[{i}] must be a style's id or an object with 'style'")
        elif unknown := [k for k in share if k not in known]:
            wrong.append(f"styles[{i}] has unknown field {unknown[0]!r}")
        elif not isinstance(share.get("mask"), (str, type(None))):
            wrong.append(f"styles[{i}].mask is {share['mask']!r}; it must be a mask's name")
        else:
            shares.append(StyleShare(**share))
    return tuple(shares), wrong


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

"""Encodings of several photos, as corpora and servers keep them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffstyler.base import Base
from diffstyler.inversion import Encoding, encode
from diffstyler.schedule import leading_timesteps
from diffstyler.settings import SampleSettings, StyleSettings
from osasis.arithmetic import Arithmetic, resolve
from osasis.choices import Precision
from osasis.mix import Mix


@dataclass(frozen=True)
class EncodePlan:
    """How photos are inverted. The latents that ``decode_steps`` read are kept."""

    steps: int
    decode_steps: int
    prompt: str
    arithmetic: Arithmetic

    @property
    def calls(self) -> int:
        """Network calls of an inversion."""
        return self.steps


@dataclass(frozen=True, eq=False)
class Encodings:
    """Encoded photos, independent of the style. photos: (B, 3, H, W) in [-1, 1]."""

    photos: Tensor
    items: tuple[Encoding, ...]
    plan: EncodePlan

    def take(self, index: slice | Tensor) -> Encodings:
        rows = torch.arange(len(self.items))[index if isinstance(index, slice) else index.cpu()]
        items = tuple(self.items[int(row)] for row in rows)
        return Encodings(self.photos[index], items, self.plan)

    def own(self) -> Encodings:
        """A copy that does not keep a larger batch's photos in memory."""
        return Encodings(self.photos.clone(), self.items, self.plan)

    @property
    def nbytes(self) -> int:
        return self.photos.nbytes + sum(item.nbytes for item in self.items)

    @classmethod
    def cat(cls, parts: Sequence[Encodings]) -> Encodings:
        """Encodings of one plan, in order."""
        items = tuple(item for part in parts for item in part.items)
        return cls(torch.cat([part.photos for part in parts]), items, parts[0].plan)


def encode_plan(
    mix: Mix | None,
    settings: StyleSettings,
    device: torch.device,
    precision: Precision | None = None,
) -> EncodePlan:
    """The plan for a mix (None: a mix without overrides) on a device.

    settings: of the mix's first style. precision: overrides that of the settings. Where the mix
    sets decode_steps alone and the settings' inversion misses their timesteps, inversion takes as
    many steps. Raises InvalidInputError for steps that do not go together.
    """
    decode_steps = (mix and mix.decode_steps) or settings.decode_steps
    steps = (mix and mix.encode_steps) or settings.encode_steps
    if mix is not None and mix.encode_steps is None:
        visited = set(leading_timesteps(steps))
        if not visited.issuperset(leading_timesteps(decode_steps)):
            steps = decode_steps
    sampling = settings.sampling(encode_steps=steps, decode_steps=decode_steps)
    arithmetic = resolve(precision or settings.precision, device)
    return EncodePlan(steps, decode_steps, sampling.encode_prompt, arithmetic)


def encode_photos(
    base: Base,
    photos: Tensor,
    plan: EncodePlan,
    *,
    pass_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> Encodings:
    """Encode photos (B, 3, H, W) in [-1, 1] on the base's device. pass_size: of ``encode``."""
    settings = SampleSettings(
        encode_steps=plan.steps, decode_steps=plan.decode_steps, encode_prompt=plan.prompt
    )
    report = progress or (lambda done, total: None)
    items = encode(base, photos, settings, report, pass_size, plan.arithmetic)
    return Encodings(photos, tuple(items), plan)

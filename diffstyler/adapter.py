"""A style's adapter: low-rank factors of the UNet's attention projections.

y = W x + up(down(x)) for the projections q, k, v and out of self- and cross-attentions (LoRA,
Sec. 4.1, with alpha = rank, so that the scale is 1). Keys are ``<attention>.to_q`` and so on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out")
# (out, in) of the projections that adapters may change, by key.
Layout = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Factors:
    """The change up @ down of one projection. down: (r, in). up: (out, r)."""

    down: Tensor
    up: Tensor

    @property
    def rank(self) -> int:
        return self.down.shape[0]


@dataclass(frozen=True, eq=False)
class Adapter:
    """Factors by projection; projections without an entry are the base's. info: plain data."""

    factors: Mapping[str, Factors]
    info: Mapping[str, Any] = field(default_factory=dict)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Adapter:
        moved = {
            key: Factors(f.down.to(device, dtype), f.up.to(device, dtype))
            for key, f in self.factors.items()
        }
        return Adapter(moved, self.info)

    @property
    def nbytes(self) -> int:
        return sum(f.down.nbytes + f.up.nbytes for f in self.factors.values())


def adapter_layout(unet: nn.Module) -> dict[str, tuple[int, int]]:
    """(out, in) of every projection of the UNet's attentions, by key."""
    layout = {}
    for name, module in unet.named_modules():
        if name.rpartition(".")[2] in ("attn1", "attn2"):
            for projection in PROJECTIONS:
                linear = module.get_submodule(_submodule(projection))
                layout[f"{name}.{projection}"] = (linear.out_features, linear.in_features)
    return layout


def _submodule(projection: str) -> str:
    # The output projection is followed by dropout in a sequence.
    return "to_out.0" if projection == "to_out" else projection


def weighted_sum(adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """One adapter that is the weighted sum of products of several; its rank is their sum."""
    keys = dict.fromkeys(key for adapter in adapters for key in adapter.factors)
    factors = {}
    for key in keys:
        parts = [
            (a.factors[key], w) for a, w in zip(adapters, weights, strict=True) if key in a.factors
        ]
        factors[key] = Factors(
            torch.cat([f.down for f, _ in parts]), torch.cat([w * f.up for f, w in parts], dim=1)
        )
    return Adapter(factors)


@dataclass(frozen=True)
class AdapterBank:
    """Stacked factors of A adapters by projection: down (A, r, in) and up (A, out, r).

    Lower ranks and absent projections are filled with zeros, which change nothing.
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, adapters: Sequence[Adapter]) -> AdapterBank:
        stacked = {}
        for key in dict.fromkeys(key for adapter in adapters for key in adapter.factors):
            found = [adapter.factors.get(key) for adapter in adapters]
            some = next(f for f in found if f is not None)
            rank = max(f.rank for f in found if f is not None)
            none = Factors(some.down[:0], some.up[:, :0])
            padded = [_pad(f or none, rank) for f in found]
            stacked[key] = (
                torch.stack([f.down for f in padded]),
                torch.stack([f.up for f in padded]),
            )
        return cls(stacked)


def _pad(f: Factors, rank: int) -> Factors:
    gap = rank - f.rank
    return f if gap == 0 else Factors(F.pad(f.down, (0, 0, 0, gap)), F.pad(f.up, (0, gap)))

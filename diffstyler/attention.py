"""Attention with an adapter a row, and injection of a source row's queries, keys and features.

A UNet gets its processors and hook once, by ``install``; they act inside ``row_plan`` only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffstyler.adapter import AdapterBank
from osasis.errors import UserError


@dataclass(frozen=True)
class InjectionSites:
    """Where the source is injected: self-attentions (q and k), and a convolution (its output)."""

    attentions: tuple[str, ...]
    feature: str


def find_sites(unet: nn.Module) -> InjectionSites:
    """The published sites, as a rule for any number of levels.

    Let b be the first up block with attention. Injected are b's self-attentions but the first,
    those of all later up blocks, and the output of b's second residual block before its shortcut.
    Raises UserError for a UNet without such blocks.
    """
    names = [name for name, _ in unet.named_modules()]
    found = [n for n in names if n.startswith("up_blocks.") and n.endswith(".attn1")]
    first = found[0].split(".attentions.")[0] if found else ""
    feature = f"{first}.resnets.1.conv2"
    if feature not in names:
        raise UserError(
            "the UNet has no up block with self-attention and two residual blocks, as Stable "
            "Diffusion has; the injection of DiffStyler needs one"
        )
    kept = tuple(n for n in found if not n.startswith(f"{first}.attentions.0."))
    return InjectionSites(kept, feature)


@dataclass(frozen=True)
class RowSettings:
    """What one row of a batch computes.

    adapter: index in the bank; None: the base. scale: factor of the adapter's change. everywhere:
    whether the adapter acts in the injected self-attentions too. source: row whose q, k and
    features are injected. attention, features: shares in [0, 1] of the source's.
    """

    adapter: int | None = None
    scale: float = 1.0
    everywhere: bool = True
    source: int | None = None
    attention: float = 0.0
    features: float = 0.0


@dataclass(frozen=True)
class AdaptedRows:
    """Rows with an adapter. rows, adapters: (N,) indices. scales: (N, 1, 1)."""

    rows: Tensor
    adapters: Tensor
    scales: Tensor

    @classmethod
    def of(cls, rows: Sequence[RowSettings], injected: bool, device: torch.device) -> AdaptedRows:
        """The rows whose adapter acts in the injected attentions, or in the others."""
        kept = [
            (i, row.adapter, row.scale)
            for i, row in enumerate(rows)
            if row.adapter is not None and (row.everywhere or not injected)
        ]
        return cls(
            torch.tensor([i for i, _, _ in kept], dtype=torch.int64, device=device),
            torch.tensor([a for _, a, _ in kept], dtype=torch.int64, device=device),
            torch.tensor([s for _, _, s in kept], device=device).view(-1, 1, 1),
        )


@dataclass(frozen=True)
class RowPlan:
    """``RowSettings`` of a batch as tensors. source: (R,) indices. attention, features: (R,) shares
    of the source, or None where no row takes any.
    """

    bank: AdapterBank
    plain: AdaptedRows
    injected: AdaptedRows
    source: Tensor
    attention: Tensor | None
    features: Tensor | None

    @classmethod
    def of(cls, rows: Sequence[RowSettings], bank: AdapterBank, device: torch.device) -> RowPlan:
        def shares(values: list[float]) -> Tensor | None:
            return torch.tensor(values, device=device) if any(values) else None

        source = [i if row.source is None else row.source for i, row in enumerate(rows)]
        return cls(
            bank,
            AdaptedRows.of(rows, False, device),
            AdaptedRows.of(rows, True, device),
            torch.tensor(source, device=device),
            shares([row.attention for row in rows]),
            shares([row.features for row in rows]),
        )

    def inject(self, own: Tensor, share: Tensor | None) -> Tensor:
        """(R, ...) values with each row's share of its source's."""
        if share is None:
            return own
        # lerp is exact at shares of 0 and 1.
        return torch.lerp(own, own[self.source], share.to(own).view(-1, *[1] * (own.dim() - 1)))


# A context variable, so that threads can use one UNet at the same time.
_PLAN: ContextVar[RowPlan | None] = ContextVar("diffstyler_row_plan", default=None)


@contextlib.contextmanager
def row_plan(plan: RowPlan) -> Iterator[None]:
    """Forward passes of installed UNets inside the block compute these rows."""
    token = _PLAN.set(plan)
    try:
        yield
    finally:
        _PLAN.reset(token)


def current_plan() -> RowPlan | None:
    """The plan of the ``row_plan`` that this thread is in."""
    return _PLAN.get()


def install(unet: Any, sites: InjectionSites) -> None:
    """Give a diffusers UNet the processors and the feature hook. Outside of ``row_plan`` it still
    computes what it did.
    """
    suffix = ".processor"
    unet.set_attn_processor(
        {
            key: RowAttention(
                key.removesuffix(suffix), key.removesuffix(suffix) in sites.attentions
            )
            for key in unet.attn_processors
        }
    )
    unet.get_submodule(sites.feature).register_forward_hook(_inject_feature)


def _inject_feature(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    plan = _PLAN.get()
    return output if plan is None else plan.inject(output, plan.features)


class RowAttention:
    """Attention processor of one attention module of the UNet.

    name: of the module. injected: whether it takes the source's queries and keys.
    """

    def __init__(self, name: str, injected: bool) -> None:
        self.name, self.injected = name, injected

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """hidden_states: (R, N, in). encoder_hidden_states: (R, M, context), None in
        self-attention. The other arguments are diffusers'; Stable Diffusion leaves them empty.
        """
        if attention_mask is not None:
            raise ValueError("attention masks are not supported")
        plan = _PLAN.get()
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = self.project(attn, hidden_states, context, plan)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=attn.scale)
        mixed = mixed.transpose(1, 2).flatten(2)
        return attn.to_out[1](self.adapted(attn.to_out[0], mixed, "to_out", plan))

    def project(
        self, attn: Any, x: Tensor, context: Tensor, plan: RowPlan | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (R, N, heads * d), q and k with the source's share."""
        q = self.adapted(attn.to_q, x, "to_q", plan)
        k = self.adapted(attn.to_k, context, "to_k", plan)
        v = self.adapted(attn.to_v, context, "to_v", plan)
        if plan is not None and self.injected:
            q, k = plan.inject(q, plan.attention), plan.inject(k, plan.attention)
        return q, k, v

    def adapted(
        self, linear: nn.Module, x: Tensor, projection: str, plan: RowPlan | None
    ) -> Tensor:
        """W x, plus scale * up(down(x)) in the rows with an adapter."""
        y: Tensor = linear(x)
        if plan is None:
            return y
        factors = plan.bank.factors.get(f"{self.name}.{projection}")
        at = plan.injected if self.injected else plan.plain
        if factors is None or len(at.rows) == 0:
            return y
        down, up = (f[at.adapters].to(x.dtype) for f in factors)
        delta = x[at.rows] @ down.mT @ up.mT * at.scales
        return y.index_add(0, at.rows, delta.to(y.dtype))

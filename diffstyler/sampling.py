"""Sampling: denoising with injection, guidance, and styles composed by masks.

Requests of different styles, masks, windows and guidance share one forward pass a step, and those
of one photo share its source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from diffstyler.adapter import Adapter, AdapterBank
from diffstyler.base import Base
from diffstyler.masks import over, union
from diffstyler.passes import Pass, Request, RowBatch, passes_at
from diffstyler.prediction import predict_eps
from diffstyler.prompts import embed_prompts
from diffstyler.schedule import ddim_step


@dataclass(frozen=True, eq=False)
class Step:
    """One request's step. x, guided, prev: (C, h, w), the state, its prediction, the next state.

    eps: (2, C, h, w) a pass, predictions with the negative prompt and with the prompt; with
    guidance 1 (1, C, h, w), that with the prompt.
    """

    request: int
    index: int
    t: int
    x: Tensor
    passes: list[Pass]
    eps: list[Tensor]
    guided: Tensor
    prev: Tensor


def sample(
    base: Base,
    requests: Sequence[Request],
    on_step: Callable[[Step], None] = lambda step: None,
    pass_size: int | None = None,
) -> list[Tensor]:
    """The latents (C, h, w) of requests, in their order. Each equals its latent alone, up to the
    rounding of products, whose order depends on the size of a batch.

    Requests of equal decode_steps, latent size and arithmetic are computed together. pass_size:
    most requests of a forward pass; None: no limit. A request takes 2 rows (1 with guidance 1) for
    the base, if that is seen, and for each layer, and where the source is injected, 1 more (1 for
    each with ``inject_from`` own).
    Raises UserError for a mask that is black, a prompt that is too long, or an encoding for other
    decode_steps.
    """
    contexts = embed_prompts(base, [p for request in requests for p in request.prompts])
    groups: dict[tuple[object, ...], list[int]] = {}
    for n, request in enumerate(requests):
        key = (request.settings.decode_steps, request.encoding.photo.shape, request.arithmetic)
        groups.setdefault(key, []).append(n)
    latents: dict[int, Tensor] = {}
    for group in groups.values():
        size = pass_size or len(group)
        for numbers in (group[i : i + size] for i in range(0, len(group), size)):
            walk = _Walk(base, {n: requests[n] for n in numbers}, contexts)
            while walk.remaining:
                walk.step(on_step)
            latents |= walk.x
    return [latents[n] for n in range(len(requests))]


def bank_of(base: Base, adapters: Sequence[Adapter]) -> tuple[AdapterBank, dict[int, int]]:
    """The distinct adapters as a bank on the base's device, and their indices by id."""
    distinct = {id(adapter): adapter for adapter in adapters}
    moved = [adapter.to(base.device, base.unet.dtype) for adapter in distinct.values()]
    return AdapterBank.of(moved), {key: n for n, key in enumerate(distinct)}


class _Walk:
    """The states of requests with equal decode_steps, latent size and arithmetic."""

    def __init__(self, base: Base, requests: dict[int, Request], contexts: dict[str, Tensor]):
        self.base, self.requests, self.contexts = base, requests, contexts
        first = next(iter(requests.values()))
        self.arithmetic = first.arithmetic
        self.remaining = list(base.schedule.timesteps(first.settings.decode_steps))
        self.index = 0
        self.x = {n: r.encoding.at(self.remaining[-1]) for n, r in requests.items()}
        h, w = next(iter(self.x.values())).shape[-2:]
        self.masks = {n: r.masks((h, w)) for n, r in requests.items()}
        layers = [layer for request in requests.values() for layer in request.layers]
        self.bank, self.adapters = bank_of(base, [layer.adapter for layer in layers])

    def step(self, on_step: Callable[[Step], None]) -> None:
        """Denoise all requests by one step, in one forward pass."""
        t = self.remaining.pop()
        batch = RowBatch(t, self.contexts, self.adapters)
        plans: dict[int, tuple[list[Pass], list[list[int]]]] = {}
        for n, request in self.requests.items():
            passes = passes_at(request, self.masks[n], self.index, t)
            plans[n] = passes, [batch.add_pass(request, p, self.x[n]) for p in passes]
        eps = predict_eps(self.base, batch.rows, t, self.bank, self.arithmetic)
        for n, (passes, rows) in plans.items():
            predicted = [eps[own] for own in rows]
            guided = compose(passes, predicted, self.masks[n])
            x, self.x[n] = self.x[n], self._next(n, guided, t)
            on_step(Step(n, self.index, t, x, passes, predicted, guided, self.x[n]))
        self.index += 1

    def _next(self, n: int, guided: Tensor, t: int) -> Tensor:
        """The state after timestep t, outside of all masks that of the photo if so set."""
        to = self.remaining[-1] if self.remaining else None
        schedule, request = self.base.schedule, self.requests[n]
        x = ddim_step(self.x[n], guided, schedule.alpha(t), schedule.alpha(to))
        if request.keeps_photo:
            return over(request.encoding.at(to), x, union(self.masks[n]))
        return x


def compose(
    passes: Sequence[Pass], predicted: Sequence[Tensor], masks: Sequence[Tensor | None]
) -> Tensor:
    """The guided prediction (C, h, w), with later layers over earlier ones.

    predicted: ``Step.eps``. Guidance (classifier-free guidance, Eq. 6) is linear, so that it
    commutes with the masks, and each pass may have its own.
    """
    guided = [
        eps[0] if len(eps) == 1 else p.guidance * (eps[1] - eps[0]) + eps[0]
        for p, eps in zip(passes, predicted, strict=True)
    ]
    out = guided[0]
    for p, above in zip(passes[1:], guided[1:], strict=True):
        out = over(out, above, None if p.layer is None else masks[p.layer], p.cover)
    return out

"""Changes of a network's weights: exact tensors, and low-rank factors (LoRA, Hu et al., ICLR 2022).

An adapter holds the changes by parameter name; a name that is absent is unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from osasis.networks.blocks import GroupNorm32


@dataclass(frozen=True)
class LowRank:
    """The change of a weight (out, *rest) as the product of two matrices.

    up: (out, rank). down: (rank, *rest).
    """

    up: Tensor
    down: Tensor

    @property
    def rank(self) -> int:
        return self.up.shape[1]

    @property
    def shape(self) -> torch.Size:
        """Shape of the weight."""
        return torch.Size([len(self.up), *self.down.shape[1:]])


Change = Tensor | LowRank
Adapter = Mapping[str, Change]
# Adapters whose weighted sum is added to a network's weights.
WeightedAdapters = Sequence[tuple[Adapter, float]]


def map_change(change: Change, to: Callable[[Tensor], Tensor]) -> Change:
    """The change with ``to`` applied to its tensors."""
    if isinstance(change, LowRank):
        return LowRank(to(change.up), to(change.down))
    return to(change)


def dense(change: Change) -> Tensor:
    """The change as one float32 tensor."""
    if isinstance(change, LowRank):
        return (change.up.float() @ change.down.float().flatten(1)).view(change.shape)
    return change.float()


def tensors_of(changes: Iterable[Change]) -> list[Tensor]:
    """The tensors that the changes consist of."""
    return [
        t for c in changes for t in ((c.up, c.down) if isinstance(c, LowRank) else (c,))
    ]  # fmt: skip


def truncated(value: Tensor, rank: int | None, energy: float = 1.0) -> Change:
    """A change at low rank, by SVD; the change itself where the factors would not be smaller.

    rank: None chooses the lowest that keeps the fraction ``energy`` of the squared norm.
    """
    if value.dim() < 2:
        return value
    u, s, vh = torch.linalg.svd(value.flatten(1).float(), full_matrices=False)
    if rank is None:
        share = s.pow(2).cumsum(0) / s.pow(2).sum().clamp_min(1e-30)
        rank = int((share < energy).sum()) + 1
    rank = min(rank, len(s))
    if rank * (u.shape[0] + vh.shape[1]) >= value.numel():
        return value
    # Equal shares of the singular values, so that neither factor leaves the range of float16.
    root = s[:rank].sqrt()
    return LowRank(u[:, :rank] * root, (root[:, None] * vh[:rank]).view(rank, *value.shape[1:]))


def merged_weights(network: nn.Module, adapters: WeightedAdapters) -> dict[str, Tensor]:
    """The parameters that the weighted sum of the adapters changes, with the change added."""
    own = dict(network.named_parameters())
    changed: dict[str, Tensor] = {}
    for adapter, weight in adapters:
        for key, change in adapter.items():
            before = changed.get(key, own[key])
            if isinstance(change, LowRank):
                up, down = change.up.to(before), change.down.to(before).flatten(1)
                # In float32: half precision would round the sum before the layer does.
                with torch.autocast(before.device.type, enabled=False):
                    after = torch.addmm(before.flatten(1), up, down, alpha=weight)
            else:
                after = before + weight * change.to(before)
            changed[key] = after.view_as(before)
    return changed


class LowRankWeight(nn.Module):
    """Parametrization of a frozen weight: the weight + scale * up @ down.

    ``up`` starts at zero, so that training starts from the weight itself.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float = 1.0) -> None:
        super().__init__()
        columns = weight[0].numel()
        rank = min(rank, len(weight), columns)
        self.scale = scale
        self.up = nn.Parameter(weight.new_zeros(len(weight), rank))
        self.down = nn.Parameter(weight.new_empty(rank, columns))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            change = torch.addmm(weight.flatten(1), self.up, self.down, alpha=self.scale)
        return change.view_as(weight)


def train_low_rank(network: nn.Module, rank: int, scale: float = 1.0) -> None:
    """Freeze the matrices of convolutions and linear layers, and add trainable factors.

    Biases and norms stay trainable. The initial factors come from torch's global generator.
    """
    for layer in list(network.modules()):
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            weight = layer.weight.requires_grad_(False)
            parametrize.register_parametrization(
                layer, "weight", LowRankWeight(weight, rank, scale)
            )


def trained_adapter(network: nn.Module, before: nn.Module) -> dict[str, Change]:
    """What training changed in a copy of ``before``; low-rank where ``train_low_rank`` acted."""
    changes: dict[str, Change] = {}
    for key, own in before.named_parameters():
        path, _, name = key.rpartition(".")
        layer = network.get_submodule(path)
        if parametrize.is_parametrized(layer, name):
            factors: Any = layer.parametrizations[name][0]  # type: ignore[index]
            down = factors.down.detach().clone().view(-1, *own.shape[1:])
            changes[key] = LowRank(factors.scale * factors.up.detach(), down)
        else:
            changes[key] = network.get_parameter(key).detach() - own
    return changes


class RowAdapters:
    """A network with adapters of its own for each row of a batch.

    One pass computes rows of different adapters: W x + sum(weight * up (down x)) with batched
    factors. Ranks are padded with zeros to the largest of a layer. Up to rounding, a row equals the
    network with ``merged_weights``.
    """

    def __init__(self, network: nn.Module, rows: Sequence[WeightedAdapters]) -> None:
        self.network = network
        names = {key for row in rows for adapter, _ in row for key in adapter}
        self.norms: dict[str, Tensor] = {}
        self.hooks: list[tuple[nn.Module, Callable[..., Tensor]]] = []
        for path, layer in network.named_modules():
            own = {n: p for n, p in layer.named_parameters(path, recurse=False) if n in names}
            if own and isinstance(layer, GroupNorm32):
                # The layer itself only normalises; its hook scales and shifts each row.
                self.norms |= {f"{path}.weight": torch.ones_like(layer.weight)}
                self.norms |= {f"{path}.bias": torch.zeros_like(layer.bias)}
                weight = layer.weight + exact_rows(rows, f"{path}.weight", layer.weight)
                bias = layer.bias + exact_rows(rows, f"{path}.bias", layer.bias)
                self.hooks.append((layer, norm_hook(weight, bias)))
            elif own:
                shift = None if layer.bias is None else exact_rows(rows, f"{path}.bias", layer.bias)
                factors = low_rank_rows(rows, f"{path}.weight", layer.weight)
                self.hooks.append((layer, matrix_hook(layer, factors, shift)))

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        """The network's output; the inputs have as many rows as there are adapters."""
        handles = [layer.register_forward_hook(hook) for layer, hook in self.hooks]
        try:
            output: Tensor = functional_call(self.network, self.norms, inputs)
        finally:
            for handle in handles:
                handle.remove()
        return output


def exact_rows(rows: Sequence[WeightedAdapters], key: str, like: Tensor) -> Tensor:
    """The summed change of a vector in each row, (B, *like.shape)."""
    sums = like.new_zeros(len(rows), *like.shape)
    for i, row in enumerate(rows):
        for adapter, weight in row:
            if key in adapter:
                sums[i] += weight * adapter[key].to(like)  # type: ignore[union-attr]
    return sums


def low_rank_rows(rows: Sequence[WeightedAdapters], key: str, like: Tensor) -> LowRank:
    """The summed change of a matrix in each row: up (B, out, rank), down (B, rank, *rest)."""
    ups, downs = [], []
    for row in rows:
        # A zero row, so that a row without a change has a factor too.
        up, down = [like.new_zeros(len(like), 1)], [like.new_zeros(1, *like.shape[1:])]
        for adapter, weight in row:
            change = adapter.get(key)
            if isinstance(change, LowRank):
                up.append(weight * change.up.to(like))
                down.append(change.down.to(like))
            elif change is not None:  # an exact matrix is its own second factor
                up.append(weight * torch.eye(len(like), device=like.device, dtype=like.dtype))
                down.append(change.to(like))
        ups.append(torch.cat(up, dim=1).T)
        downs.append(torch.cat(down))
    padded = nn.utils.rnn.pad_sequence
    return LowRank(padded(ups, batch_first=True).mT, padded(downs, batch_first=True))


def norm_hook(weight: Tensor, bias: Tensor) -> Callable[..., Tensor]:
    """Scales and shifts a normalised output (B, C, ...). weight, bias: (B, C)."""

    def hook(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        shape = (*weight.shape, *(1,) * (output.dim() - 2))
        return torch.addcmul(bias.to(output).view(shape), output, weight.to(output).view(shape))

    return hook


def matrix_hook(layer: nn.Module, factors: LowRank, shift: Tensor | None) -> Callable[..., Tensor]:
    """Adds a matrix layer's low-rank term and the change of its bias (B, out)."""
    rank = factors.down.shape[1]

    def reduced(x: Tensor) -> Tensor:
        """``down`` applied to each row, (B, rank, ...)."""
        if not isinstance(layer, nn.Conv2d):
            # A linear layer, or a convolution of one position; (B, in) or (B, in, N).
            return torch.bmm(factors.down.flatten(2), x.view(*x.shape[:2], -1))
        b, c, height, width = x.shape
        grouped = x.reshape(1, b * c, height, width)
        kernels = factors.down.flatten(0, 1)
        h = F.conv2d(grouped, kernels, None, layer.stride, layer.padding, groups=b)
        return h.view(b, rank, *h.shape[2:])

    def hook(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        term = torch.bmm(factors.up, reduced(inputs[0]).flatten(2))
        if shift is not None:
            term = term + shift.to(term)[..., None]
        return output + term.view_as(output)

    return hook

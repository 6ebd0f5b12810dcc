"""Low-rank changes: truncation, merging, training, and rows of different adapters in one pass."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from osasis.bundles.base import Base
from osasis.bundles.style import Style
from osasis.networks.adapters import (
    LowRank,
    RowAdapters,
    WeightedAdapters,
    dense,
    merged_weights,
    train_low_rank,
    trained_adapter,
    truncated,
)
from osasis.networks.unet import UNet

Styles = Callable[..., Style]


def inputs(unet: UNet, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    size, channels = unet.config.image_size, unet.config.z_channels
    x = torch.randn(rows, 3, size, size, generator=g)
    return x, torch.arange(rows) * 100, torch.randn(rows, channels, generator=g)


def test_truncation_is_the_best_of_its_rank() -> None:
    value = torch.randn(8, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    change = truncated(value, 2)
    assert isinstance(change, LowRank) and change.rank == 2 and change.shape == value.shape
    s = torch.linalg.svdvals(value.flatten(1))
    lost = float((dense(change) - value).pow(2).sum())
    assert lost == pytest.approx(float(s[2:].pow(2).sum()), rel=1e-4)
    vector, small = value[:, 0, 0, 0], value[:2, :2, 0, 0]
    assert truncated(vector, 2) is vector and truncated(small, 1) is small


def test_merged_weights_are_linear(tiny_base: Base, tiny_style: Styles) -> None:
    a, b = tiny_style("a", 21), tiny_style("b", 61)
    del b.delta["out.2.bias"]
    own = dict(tiny_base.diffae.unet.named_parameters())
    low = b.compact(rank=2)
    out = merged_weights(tiny_base.diffae.unet, [(a.delta, 0.5), (low.delta, 1.5)])
    for key in ("input_blocks.0.0.weight", "input_blocks.1.0.in_layers.2.weight"):
        expected = own[key] + 0.5 * a.delta[key] + 1.5 * dense(low.delta[key])
        torch.testing.assert_close(out[key], expected)
    torch.testing.assert_close(out["out.2.bias"], own["out.2.bias"] + 0.5 * a.delta["out.2.bias"])


def test_rows_of_different_adapters_equal_each_alone(tiny_base: Base, tiny_style: Styles) -> None:
    """Ranks, blends, full rank, and a row without any change, in one batch."""
    unet = tiny_base.diffae.unet
    a, b = tiny_style("a", 21).compact(rank=2).delta, tiny_style("b", 61).compact(rank=3).delta
    full = tiny_style("c", 5).delta
    rows: list[WeightedAdapters] = [
        [(a, 1.0)], [(b, 0.7)], [(a, 0.3), (b, 0.5)], [], [(full, 0.5)],
    ]  # fmt: skip
    x, t, z = inputs(unet, len(rows))
    with torch.no_grad():
        together = RowAdapters(unet, rows)(x, t, z)
        for i, row in enumerate(rows):
            one = slice(i, i + 1)
            alone = functional_call(unet, merged_weights(unet, row), (x[one], t[one], z[one]))
            assert (together[one] - alone).abs().max() < 1e-4 * alone.abs().max(), i
        # The network itself is unchanged.
        plain = unet(x, t, z)
        assert (plain[3] - together[3]).abs().max() < 1e-5 < (plain[0] - together[0]).abs().max()


def test_training_changes_factors_and_vectors_only(tiny_base: Base) -> None:
    base = tiny_base.diffae.unet
    unet = copy.deepcopy(base).requires_grad_(True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        train_low_rank(unet, rank=2, scale=3.0)
    x, t, z = inputs(unet, 1)
    # Training starts from the network itself.
    torch.testing.assert_close(unet(x, t, z), base(x, t, z))
    trained = {k: p for k, p in unet.named_parameters() if p.requires_grad}
    optimiser = torch.optim.Adam(trained.values(), 0.01)
    for _ in range(2):
        optimiser.zero_grad()
        (unet(x, t, z) - 1).pow(2).mean().backward()
        optimiser.step()
    adapter = trained_adapter(unet, base)
    for key, own in base.named_parameters():
        change = adapter[key]
        assert change.shape == own.shape
        assert isinstance(change, LowRank) == (own.dim() > 1)
        if isinstance(change, LowRank):
            assert change.rank <= 2
    with torch.no_grad():
        merged = functional_call(base, merged_weights(base, [(adapter, 1.0)]), (x, t, z))
        torch.testing.assert_close(merged, unet(x, t, z))
        assert (merged - base(x, t, z)).abs().max() > 1e-3

"""The network that predicts a style's change of epsilon_A."""

from __future__ import annotations

import torch

from osasis.networks.adapters import LowRank, dense
from osasis.networks.style_predictor import SCALE, StylePredictor

SHAPES = {
    "a.weight": torch.Size([4, 3, 3, 3]),
    "a.bias": torch.Size([4]),
    "b.weight": torch.Size([5, 4]),
}


def predictor(shared: int = 0) -> StylePredictor:
    torch.manual_seed(0)
    return StylePredictor(SHAPES, features=7, components=3, rank=2, shared=shared)


def test_an_untrained_predictor_predicts_no_change() -> None:
    changes = predictor().adapter(torch.randn(3))
    assert list(changes) == list(SHAPES)
    for key, change in changes.items():
        assert change.shape == SHAPES[key] and not dense(change).any()


def test_a_change_is_the_scaled_product_of_its_factors() -> None:
    net = predictor(shared=1)
    torch.nn.init.normal_(net.ups["b/weight"])
    torch.nn.init.normal_(net.directions["a/bias"])
    white = torch.randn(3)
    rows = net.network(white).view(3, 2)
    up, down = net.ups["b/weight"], net.downs["b/weight"]
    expected = SCALE * (
        torch.outer(up[:, 0], down[0])
        + rows[2, 0] * torch.outer(up[:, 1], down[1])
        + rows[2, 1] * torch.outer(up[:, 2], down[2])
    )
    changes = net.adapter(white)
    assert isinstance(changes["b.weight"], LowRank) and changes["b.weight"].rank == 3
    torch.testing.assert_close(dense(changes["b.weight"]), expected)
    directions = net.directions["a/bias"]
    torch.testing.assert_close(
        dense(changes["a.bias"]), rows[1, 0] * directions[0] + rows[1, 1] * directions[1]
    )


def test_features_are_whitened_and_clipped() -> None:
    net = predictor()
    net.feature_mean += 1
    net.projection[:3] = 2 * torch.eye(3)
    white = net.whiten(torch.tensor([1.5, 1.0, 100.0, 0.0, 0.0, 0.0, 0.0]))
    assert white.tolist() == [1.0, 0.0, 4.0]

"""A network that predicts the weights of a style from features of its style image.

One set of low-rank factors (LoRA, Hu et al., ICLR 2022) serves all styles; a style scales each rank
of each layer, as VeRA does with random factors (Kopiczko et al., ICLR 2024). HyperDreamBooth (Ruiz
et al., CVPR 2024) predicts adapters from images, too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from osasis.networks.adapters import Change, LowRank
from osasis.networks.spn import StructurePreservingNetwork

HIDDEN = 128
# Whitened features are clipped: style images unlike those of the training stay within its range.
LARGEST_FEATURE = 4.0
# Scale of the factors' product, as in training of one style with factors (alpha / rank).
SCALE = 20.0


class StylePredictor(nn.Module):
    """Predicts the change of epsilon_A for a style; the SPN is the same for all styles.

    The change of a matrix is SCALE * up diag(c) down. The first ``shared`` entries of c are 1; the
    others, ``rank`` for each parameter, depend on the style. The change of a vector is a mean
    change + c directions.
    """

    feature_mean: Tensor
    projection: Tensor

    def __init__(
        self,
        shapes: Mapping[str, torch.Size],
        features: int,
        components: int,
        rank: int,
        shared: int = 0,
    ) -> None:
        """shapes: of epsilon_A's parameters, by name.

        features: number of features, of which ``components`` principal components are used.
        """
        super().__init__()
        self.shapes, self.rank, self.shared = dict(shapes), rank, shared
        self.ups, self.downs = nn.ParameterDict(), nn.ParameterDict()
        self.means, self.directions = nn.ParameterDict(), nn.ParameterDict()
        for key, shape in self.shapes.items():
            name = entry_name(key)
            if len(shape) > 1:
                self.ups[name] = nn.Parameter(torch.zeros(shape[0], shared + rank))
                self.downs[name] = nn.Parameter(torch.empty(shared + rank, *shape[1:]))
                nn.init.kaiming_uniform_(self.downs[name].flatten(1), a=5**0.5)
            else:
                self.means[name] = nn.Parameter(torch.zeros(shape))
                self.directions[name] = nn.Parameter(torch.zeros(rank, *shape))
        self.register_buffer("feature_mean", torch.zeros(features))
        self.register_buffer("projection", torch.zeros(features, components))
        last = nn.Linear(HIDDEN, len(self.shapes) * rank)
        nn.init.normal_(last.weight, std=0.1 / HIDDEN**0.5)
        nn.init.normal_(last.bias)
        hidden = [nn.Linear(components, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU()]
        self.network = nn.Sequential(*hidden, last)
        self.spn = StructurePreservingNetwork()

    def whiten(self, features: Tensor) -> Tensor:
        """Features (F,) -> (components,), with mean 0 and variance 1 over the training."""
        white = (features - self.feature_mean) @ self.projection
        return white.clamp(-LARGEST_FEATURE, LARGEST_FEATURE)

    def adapter(self, whitened: Tensor) -> dict[str, Change]:
        """The change of epsilon_A for a style, by parameter name. whitened: (components,)."""
        rows = self.network(whitened).view(len(self.shapes), self.rank)
        changes: dict[str, Change] = {}
        for (key, shape), c in zip(self.shapes.items(), rows, strict=True):
            name = entry_name(key)
            if len(shape) > 1:
                scale = SCALE * torch.cat([c.new_ones(self.shared), c])
                changes[key] = LowRank(scale * self.ups[name], self.downs[name])
            else:
                changes[key] = self.means[name] + torch.tensordot(c, self.directions[name], 1)
        return changes


def entry_name(key: str) -> str:
    """A parameter's name without dots, which torch reserves."""
    return key.replace(".", "/")

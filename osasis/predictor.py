"""Styles without training: epsilon_B and the SPN as a base's predictor gives them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from osasis.bundles.base import Base
from osasis.bundles.style import Style
from osasis.errors import UserError
from osasis.networks.adapters import LowRank, balanced
from osasis.networks.style_predictor import StylePredictor
from osasis.palette import Palette
from osasis.settings import TrainSettings


def required_predictor(base: Base) -> StylePredictor:
    """The base's predictor. Raises UserError where it has none."""
    if base.predictor is None:
        raise UserError(
            f"base {base.name!r} has no style predictor: train one with `style-factory base "
            "train-predictor`, or choose a preset that starts from the base (start=base)"
        )
    return base.predictor


@torch.no_grad()
def style_features(base: Base, style_image: Tensor, counterpart: Tensor) -> Tensor:
    """What is known of a style without training, (F,).

    Semantic codes, guide embeddings and colour statistics of the style image (1, 3, H, W), and
    their differences from those of its photo counterpart. Computed in float32.
    """
    both = torch.cat([style_image, counterpart])
    codes = (base.encode_z(both).float() - base.z_mean) / base.z_std
    embeddings = F.normalize(base.guide.embed(both), dim=-1)
    colours = torch.cat([both.mean(dim=(2, 3)), both.std(dim=(2, 3))], dim=1)
    # Parts of equal weight, whatever their size.
    codes, embeddings = (x.flatten(1) / x.shape[1] ** 0.5 for x in (codes, embeddings))
    parts = [codes, embeddings, colours]
    return torch.cat([p for x in parts for p in (x[0], x[0] - x[1])])


@torch.no_grad()
def predict_style(
    base: Base, style_id: str, style_image: Tensor, counterpart: Tensor, settings: TrainSettings
) -> Style:
    """A style from the base's predictor, with factors in float16.

    style_image, counterpart: (1, 3, H, W) in [-1, 1], at the base's size. Raises UserError where
    the base has no predictor.
    """
    predictor = required_predictor(base)
    features = style_features(base, style_image, counterpart)
    changes = predictor.adapter(predictor.whiten(features))
    delta = {k: balanced(c.up, c.down) if isinstance(c, LowRank) else c for k, c in changes.items()}
    spn = {k: v.detach().clone() for k, v in predictor.spn.state_dict().items()}
    z_style, z_counterpart = base.encode_z(style_image), base.encode_z(counterpart)
    info = {"base": base.fingerprint, "predictor": base.predictor_fingerprint}
    palette = Palette.of(style_image[0])
    return Style(style_id, delta, spn, z_style, z_counterpart, settings, info, palette).half()

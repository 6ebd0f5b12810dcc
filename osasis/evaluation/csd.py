"""CSD: cosine similarity of style descriptors (Somepalli et al., 2024), alone and with CSLS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn

from osasis.evaluation.metric import Metric, Pair, Picture
from osasis.evaluation.weights import load_into, load_weights
from osasis.images.tensors import resized

# Nearest neighbours that CSLS averages (Conneau et al., Sec. 2.3).
NEIGHBOURS = 10


@dataclass(frozen=True)
class ViTSizes:
    """Sizes of CLIP's vision transformer. output: length of a descriptor."""

    name: str
    side: int
    patch: int
    width: int
    layers: int
    heads: int
    output: int


VIT_L_14 = ViTSizes("ViT-L/14", 224, 14, 1024, 24, 16, 768)


class CSD(nn.Module):
    """CLIP's vision tower with projections to style and content.

    (B, 3, H, W) in [-1, 1] -> style descriptors (B, output) of length 1. The content projection is
    a part of the published weights and takes no part here.
    """

    def __init__(self, sizes: ViTSizes) -> None:
        super().__init__()
        s = self.sizes = sizes
        self.backbone = VisionTransformer(
            s.side, s.patch, s.width, s.layers, s.heads, 4.0, output_dim=s.output,
            act_layer=QuickGELU,
        )  # fmt: skip
        self.backbone.proj = None
        self.last_layer_style = nn.Parameter(torch.empty(s.width, s.output))
        self.last_layer_content = nn.Parameter(torch.empty(s.width, s.output))

    def forward(self, images: Tensor) -> Tensor:
        x = (resized(images, self.sizes.side) + 1) / 2
        mean, std = (
            x.new_tensor(v).view(1, 3, 1, 1) for v in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
        )
        return F.normalize(self.backbone((x - mean) / std) @ self.last_layer_style, dim=1)


def load_csd(path: Path, sizes: ViTSizes = VIT_L_14) -> CSD:
    """The network of the published checkpoint; every key must match. Raises UserError."""
    # Saved from a network that ran on several GPUs.
    state = {k.removeprefix("module."): v for k, v in load_weights(path).items()}
    return load_into(CSD(sizes), state, path, f"CSD {sizes.name}")


def csd_metrics(net: CSD) -> list[Metric]:
    """``csd``, in [-1, 1], and ``csls``, in [-4, 4], of stylizations and style images."""
    backbone = f"CSD {net.sizes.name}"

    @torch.no_grad()
    def describe(picture: Picture) -> Tensor:
        return net(picture.batch)[0].double()

    def descriptors(pair: Pair) -> tuple[Tensor, Tensor]:
        a, b = (p.once(backbone, describe) for p in (pair.stylized, pair.style_image))
        return a, b

    def similarity(pair: Pair) -> tuple[float]:
        a, b = descriptors(pair)
        return (float(a @ b),)

    source = "Somepalli et al. (CSD), ECCV 2024, Sec. 3"
    return [
        Metric("csd", False, backbone, source, similarity),
        # Photos that resampling repeats would be their own neighbours.
        Metric("csls", False, backbone, f"{source}; CSLS: Conneau et al., ICLR 2018, Eq. 3",
               lambda pair: torch.cat(descriptors(pair)).tolist(), csls, interval=False),
    ]  # fmt: skip


def csls(rows: np.ndarray) -> float:
    """Mean of 2 cos(x, y) - r(x) - r(y) over rows (N, 2 D) of stylization x and style image y.

    r: mean cosine to the nearest style images or stylizations. A stylization that resembles every
    style, or a style image that every stylization resembles, thus counts less. NaN for one style
    image, which has no others to compare with.
    """
    stylized, style = np.split(rows, 2, axis=1)
    styles, own = np.unique(style, axis=0, return_inverse=True)
    if len(styles) < 2:
        return math.nan
    cosines = stylized @ styles.T
    to_styles, to_stylized = (nearest(c) for c in (cosines, cosines.T))
    own = own.ravel()
    pairs = cosines[np.arange(len(own)), own]
    return float((2 * pairs - to_styles - to_stylized[own]).mean())


def nearest(cosines: np.ndarray) -> np.ndarray:
    """Mean of the NEIGHBOURS largest values of each row, or of all where there are fewer."""
    return np.sort(cosines, axis=1)[:, -NEIGHBOURS:].mean(axis=1)

"""ArtFID and FID with the Inception network of the FID literature."""

from __future__ import annotations

import contextlib
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from osasis.errors import UserError
from osasis.evaluation.features import lpips_metric
from osasis.evaluation.frechet import frechet
from osasis.evaluation.metric import Metric, Pair, Picture
from osasis.evaluation.weights import load_weights
from osasis.guides.perceptual import PerceptualNet
from osasis.images.tensors import to_uint8

BACKBONE = "Inception-v3 (FID)"
FEATURES = 2048
# Below this many pairs, the covariance of the features is not full rank and FID is biased.
MIN_PAIRS = 2000
INSTALL = "pip install 'style-factory[fid]'"


def artfid_metrics(
    path: Path, net: PerceptualNet, net_name: str, device: torch.device | str = "cpu"
) -> list[Metric]:
    """``fid`` (stylizations to style images) and ``artfid`` = (1 + LPIPS) (1 + FID).

    path: Inception's weights. net: of LPIPS. Raises UserError.
    """
    inception = load_inception(path, device)
    lpips = lpips_metric(net, net_name)

    def features(picture: Picture) -> Tensor:
        with torch.no_grad():
            return inception(to_uint8(picture.batch))[0][0]

    def measure(pair: Pair) -> list[float]:
        """LPIPS, and the features of stylization and style image."""
        distance = lpips.measure(pair)
        assert distance is not None
        parts = [p.once(BACKBONE, features) for p in (pair.stylized, pair.style_image)]
        return [*distance, *torch.cat(parts).tolist()]

    return [
        Metric("fid", True, BACKBONE, "Heusel et al., NeurIPS 2017, Eq. 6", measure,
               set_fid, interval=False),
        Metric("artfid", True, f"{BACKBONE}, LPIPS {net_name}", "Wright & Ommer, GCPR 2022, Eq. 5",
               measure, art_fid, interval=False),
    ]  # fmt: skip


def set_fid(rows: np.ndarray) -> float:
    """FID of rows (N, 1 + 2 D) of LPIPS, stylization features, style features.

    NaN below two stylizations or two style images, whose covariance is not defined.
    """
    stylized, style = np.split(rows[:, 1:], 2, axis=1)
    style = np.unique(style, axis=0)
    if len(stylized) < 2 or len(style) < 2:
        return math.nan
    return frechet(torch.from_numpy(stylized), torch.from_numpy(style))


def art_fid(rows: np.ndarray) -> float:
    """(1 + mean LPIPS) (1 + FID)."""
    return (1 + float(rows[:, 0].mean())) * (1 + set_fid(rows))


def load_inception(path: Path, device: torch.device | str = "cpu") -> Any:
    """torch-fidelity's Inception with these weights. Raises UserError."""
    load_weights(path)  # refuses a file with pickled code, which torch-fidelity would run
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            network = FeatureExtractorInceptionV3("inception-v3-compat", [str(FEATURES)], str(path))
    except RuntimeError as e:
        reason = str(e).splitlines()[0]
        raise UserError(f"{path}: not the weights of FID's Inception ({reason})") from None
    return network.to(device)

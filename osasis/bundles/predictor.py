"""The style predictor in a base's folder: ``predictor.json`` and ``predictor.safetensors``.

It is no part of the base's fingerprint: styles and encodings of a base stay valid when a predictor
is added or trained again. What starts from a prediction records the predictor's hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from osasis.bundles.files import PREDICTOR_JSON, read_bundle_json
from osasis.errors import UserError
from osasis.networks.checkpoint_keys import check_layout
from osasis.networks.style_predictor import StylePredictor
from osasis.storage import save_tensors, sha256_file, to_float16, write_json

FORMAT = 1
PREDICTOR_WEIGHTS = "predictor.safetensors"
REMEDY = "train the predictor again with `style-factory base train-predictor`"


def save_predictor(
    folder: Path, predictor: StylePredictor, base: str, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a predictor in float16 into a base's folder; return the content of predictor.json.

    base: the base's fingerprint.
    """
    weights = folder / PREDICTOR_WEIGHTS
    features, components = predictor.projection.shape
    save_tensors(weights, to_float16(predictor.state_dict()))
    info = {
        "format": FORMAT,
        "base": base,
        "features": features,
        "components": components,
        "rank": predictor.rank,
        "shared": predictor.shared,
        "weights_sha256": sha256_file(weights),
        "provenance": dict(provenance),
    }
    write_json(folder / PREDICTOR_JSON, info)
    return info


def read_predictor_info(folder: Path, base: str) -> dict[str, Any] | None:
    """The content of predictor.json; None where a base has no predictor.

    base: the base's fingerprint. Raises UserError where the predictor is of another base.
    """
    path = folder / PREDICTOR_JSON
    if not path.is_file():
        return None
    keys = ("base", "features", "components", "rank", "shared", "weights_sha256")
    info = read_bundle_json(path, FORMAT, keys, REMEDY)
    if info["base"] != base:
        raise UserError(f"{path}: of another base ({info['base']}, here {base}); {REMEDY}")
    return info


def load_predictor(folder: Path, info: Mapping[str, Any], unet: nn.Module) -> StylePredictor:
    """Load a predictor for inference. info: of ``read_predictor_info``. Raises UserError."""
    path = folder / PREDICTOR_WEIGHTS
    if not path.is_file():
        raise UserError(f"{path}: missing; {REMEDY}")
    if sha256_file(path) != info["weights_sha256"]:
        raise UserError(f"{path}: its SHA-256 differs from {PREDICTOR_JSON}; {REMEDY}")
    shapes = {k: p.shape for k, p in unet.named_parameters()}
    sizes = (info["features"], info["components"], info["rank"], info["shared"])
    with torch.device("meta"):
        predictor = StylePredictor(shapes, *sizes)
    tensors = {k: v.float() for k, v in load_file(path).items()}
    check_layout(tensors, {k: v.shape for k, v in predictor.state_dict().items()}, str(path))
    predictor.load_state_dict(tensors, assign=True)
    return predictor.requires_grad_(False).eval()

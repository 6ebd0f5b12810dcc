"""Structure distance of DINO ViT keys (Splice)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osasis.evaluation.features import self_similarity
from osasis.evaluation.metric import Metric, Pair
from osasis.evaluation.weights import load_into, load_weights
from osasis.images.tensors import resized

MODEL = "vit_base_patch8_224"
SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def dino_metric(path: Path, device: torch.device | str = "cpu") -> Metric:
    """Structure distance of the keys of the last block of DINO ViT-B/8.

    path: the published ``dino_vitbase8_pretrain`` state dict. Raises UserError.
    """
    model = load_dino(path).to(device)

    def measure(pair: Pair) -> tuple[float]:
        a, b = (
            p.once("dino", lambda p: self_similarity(keys(model, p.batch)))
            for p in (pair.photo, pair.stylized)
        )
        return (float(F.mse_loss(a, b)),)

    source = "Tumanyan et al. (Splice), CVPR 2022, Eq. 3 and 4"
    return Metric("structure", True, "DINO ViT-B/8", source, measure)


def load_dino(path: Path, model: str = MODEL) -> nn.Module:
    """The ViT of timm with these weights; every key must match."""
    import timm

    vit: nn.Module = timm.create_model(model, pretrained=False, num_classes=0)
    return load_into(vit, load_weights(path), path, f"DINO {model}")


@torch.no_grad()
def keys(vit: nn.Module, images: Tensor) -> Tensor:
    """Keys of the last block for one image (1, 3, H, W) in [-1, 1], heads joined; (tokens, D)."""
    x = (resized(images, SIDE) + 1) / 2
    mean, std = (x.new_tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    found: list[Tensor] = []
    handle = vit.blocks[-1].attn.qkv.register_forward_hook(  # type: ignore[union-attr, index]
        lambda module, inputs, output: found.append(output)
    )
    try:
        vit.forward_features((x - mean) / std)  # type: ignore[operator]
    finally:
        handle.remove()
    # The output is (1, tokens, 3 * D): queries, keys, values.
    return found[0][0].chunk(3, dim=1)[1]

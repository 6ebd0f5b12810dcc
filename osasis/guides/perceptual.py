"""The perceptual net: LPIPS (VGG or AlexNet), or a small net distilled from it."""

from __future__ import annotations

import warnings
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from osasis.errors import UserError
from osasis.networks.small_features import STAGES, SmallFeatures

# "small" is distilled from "vgg"; see osasis.pretraining.distil_perceptual.
NETS = ("vgg", "alex", "small")


class PerceptualNet(nn.Module):
    """LPIPS distance (Zhang et al., CVPR 2018) and the features of its backbone.

    Images are (B, 3, H, W) in [-1, 1].
    """

    def __init__(self, net: str = "vgg", weights: str | Path | None = None) -> None:
        """net: one of NETS. weights: a complete state dict (safetensors); None downloads the
        weights of lpips and torchvision, which is not possible for "small". Raises UserError."""
        super().__init__()
        if net not in NETS:
            raise UserError(f"unknown perceptual net {net!r}: choose one of {', '.join(NETS)}")
        self.net = net
        self.model: Any = _build(net, download=weights is None)
        if weights is not None:
            _load(self.model, Path(weights), net)
        self.requires_grad_(False)
        self.eval()

    @property
    def stage_count(self) -> int:
        """Number of stages that ``stages`` supports."""
        return len(STAGES) if self.net == "small" else 5

    def features(self, images: Tensor) -> list[Tensor]:
        """The five feature maps that distances compare, finest first, each (B, C, h, w)."""
        if self.net == "small":
            return self.model.distance(images)
        return list(self.model.net(self.model.scaling_layer(images)))

    def stages(self, images: Tensor, count: int) -> list[Tensor]:
        """The first ``count`` feature maps for statistics, finest first, each (B, C, h, w)."""
        if self.net == "small":
            return self.model.stages(images, count)
        x, out = self.model.scaling_layer(images), []
        for stage in range(1, count + 1):
            x = getattr(self.model.net, f"slice{stage}")(x)
            out.append(x)
        return out

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances (B,); a batch of one is compared with each image of the other batch."""
        return self.from_features(self.features(a), self.features(b))

    def from_features(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """Distances (B,) from ``features``; saves recomputing the features of a constant image."""
        pairs = zip(a, b, strict=True)
        if self.net == "small":
            stages = [(x - y).float().pow(2).sum(dim=1).mean(dim=(1, 2)) for x, y in pairs]
        else:
            gaps = [(normalised_features(x) - normalised_features(y)) ** 2 for x, y in pairs]
            lins = zip(gaps, self.model.lins, strict=True)
            stages = [lin(gap).mean(dim=(1, 2, 3)) for gap, lin in lins]
        return reduce(torch.add, stages)


def normalised_features(f: Tensor) -> Tensor:
    """Features of LPIPS at unit length at each position."""
    # The eps of lpips.normalize_tensor, so that distances equal the library's.
    return f / (f.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10)


def _build(net: str, download: bool) -> nn.Module:
    if net == "small":
        if download:
            raise UserError(
                "the small perceptual net has no weights to download: give a file (python -m "
                "osasis.pretraining.distil_perceptual makes one)"
            )
        return SmallFeatures()
    import lpips

    try:
        with warnings.catch_warnings():
            # lpips calls torchvision with the deprecated argument 'pretrained'.
            warnings.simplefilter("ignore", UserWarning)
            return lpips.LPIPS(net=net, pretrained=download, pnet_rand=not download, verbose=False)
    except OSError as e:
        raise UserError(
            f"the LPIPS weights ({net}) could not be downloaded ({e}); give a local file instead"
        ) from None


def _load(model: nn.Module, path: Path, net: str) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file of LPIPS weights")
    try:
        state = {k: v.float() for k, v in load_file(path).items()}
    except Exception as e:  # safetensors raises its own untyped errors
        raise UserError(f"{path}: not a safetensors file ({e})") from None
    own = model.state_dict()
    wrong = [k for k in own if k not in state or state[k].shape != own[k].shape]
    if wrong or set(state) - set(own):
        first = (wrong or sorted(set(state) - set(own)))[0]
        raise UserError(f"{path}: not the weights of LPIPS with net {net!r} (first at {first})")
    model.load_state_dict(state)

"""The style: the result of training on one style image, and its bundle on disk.

On disk a style is one folder: ``style.json`` (settings, provenance), ``style.safetensors``
(epsilon_B as its difference from epsilon_A, the SPN, z_style), ``style.png`` and
``counterpart.png``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from osasis.bundles.base import Base, read_bundle_json
from osasis.errors import UserError
from osasis.images.decoding import png_bytes
from osasis.images.tensors import image_to_tensor, tensor_to_image
from osasis.networks.spn import StructurePreservingNetwork
from osasis.palette import Palette
from osasis.settings import TrainSettings
from osasis.storage import save_tensors, sha256_file, write_atomic, write_json

FORMAT = 1


@dataclass
class Style:
    """A trained style.

    delta: epsilon_B minus epsilon_A by UNet key; absent keys are unchanged. spn: state dict of the
    SPN. z_style, z_counterpart: (1, D), semantic codes of the style image and of its photo
    counterpart. palette: of the style image; None where the image is unknown. info: content of
    style.json.
    """

    id: str
    delta: dict[str, Tensor]
    spn: dict[str, Tensor]
    z_style: Tensor
    z_counterpart: Tensor
    settings: TrainSettings
    info: dict[str, Any] = field(default_factory=dict)
    palette: Palette | None = None

    def spn_module(self, device: torch.device | str = "cpu") -> StructurePreservingNetwork:
        net = StructurePreservingNetwork()
        net.load_state_dict(self.spn)
        return net.to(device).requires_grad_(False).eval()

    def to(self, device: torch.device | str) -> Style:
        return replace(
            self,
            delta={k: v.to(device) for k, v in self.delta.items()},
            z_style=self.z_style.to(device),
            z_counterpart=self.z_counterpart.to(device),
            palette=self.palette and self.palette.to(device),
        )

    def compact(self, rank: int | None = None, energy: float = 0.99) -> Style:
        """A copy whose weight differences are truncated to low rank by SVD.

        rank: rank of every matrix; None chooses the lowest that keeps the fraction ``energy`` of a
        matrix's squared norm. Vectors, and matrices that are smaller than their factors, stay
        exact. ``info["ranks"]`` lists the ranks, 0 for exact tensors.
        """
        delta, ranks = {}, {}
        for key, value in self.delta.items():
            delta[key], ranks[key] = _low_rank(value, rank, energy)
        info = {**self.info, "compact": {"rank": rank, "energy": None if rank else energy}}
        return replace(self, delta=delta, info={**info, "ranks": ranks})


def _low_rank(value: Tensor, rank: int | None, energy: float) -> tuple[Tensor, int]:
    """The truncated tensor and its rank, or the tensor itself and 0."""
    if value.dim() < 2:
        return value, 0
    u, s, vh = torch.linalg.svd(value.flatten(1).float(), full_matrices=False)
    if rank is None:
        share = s.pow(2).cumsum(0) / s.pow(2).sum().clamp_min(1e-30)
        rank = int((share < energy).sum()) + 1
    rank = min(rank, len(s))
    if rank * (u.shape[0] + vh.shape[1]) >= value.numel():
        return value, 0  # the factors are larger than the matrix
    return ((u[:, :rank] * s[:rank]) @ vh[:rank]).view_as(value), rank


def save_style(
    folder: Path, style: Style, style_image: Tensor, counterpart: Tensor, *, dtype: str = "float32"
) -> dict[str, Any]:
    """Write a style's folder, style.json last, and return the content of style.json.

    style_image, counterpart: (3, H, W) in [-1, 1]. dtype: type of the stored difference; float16
    halves the file. A compact style is stored as low-rank factors.
    """
    tensors = {f"spn.{k}": v for k, v in style.spn.items()}
    tensors |= {"z_style": style.z_style, "z_counterpart": style.z_counterpart}
    ranks = style.info.get("ranks", {})
    kind = getattr(torch, dtype)
    for key, value in style.delta.items():
        if rank := ranks.get(key, 0):
            u, s, vh = torch.linalg.svd(value.flatten(1).float(), full_matrices=False)
            tensors[f"left.{key}"] = (u[:, :rank] * s[:rank]).to(kind)
            tensors[f"right.{key}"] = vh[:rank].to(kind)
        else:
            tensors[f"delta.{key}"] = value.to(kind)
    for name, picture in (("style", style_image), ("counterpart", counterpart)):
        write_atomic(folder / f"{name}.png", png_bytes(tensor_to_image(picture)))
    save_tensors(folder / "style.safetensors", tensors)
    info = {
        "format": FORMAT,
        **{k: v for k, v in style.info.items() if k != "ranks"},
        "id": style.id,
        "settings": style.settings.to_dict(),
        "weights_sha256": sha256_file(folder / "style.safetensors"),
    }
    write_json(folder / "style.json", info)
    return info


def load_style(folder: Path, base: Base | None = None, verify: bool = True) -> Style:
    """Load a style. Raises UserError if it is damaged or was trained on another base.

    base: gives low-rank differences their shapes. Without it they are (rows, columns).
    verify: compare the weights' SHA-256 with style.json (a few milliseconds per megabyte).
    """
    path, weights = folder / "style.json", folder / "style.safetensors"
    if not path.is_file() or not weights.is_file():
        raise UserError(f"{folder}: not a style (style.json or style.safetensors is missing)")
    info = read_bundle_json(
        path, FORMAT, ("id", "settings", "weights_sha256"), "train the style again"
    )
    if verify and sha256_file(weights) != info["weights_sha256"]:
        raise UserError(f"{weights}: its SHA-256 differs from style.json; train the style again")
    if base is not None and info.get("base") not in (None, base.fingerprint):
        raise UserError(
            f"style {info['id']!r} was trained on base {info['base']}, not on {base.fingerprint} "
            f"({base.name}); choose that base, or train the style on this one"
        )
    tensors = {k: v.float() for k, v in load_file(weights).items()}
    shapes = dict(base.diffae.unet.named_parameters()) if base is not None else {}
    delta, spn, ranks = {}, {}, {}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        if kind == "delta":
            delta[name] = value
        elif kind == "left":
            product = value @ tensors[f"right.{name}"]
            delta[name] = product.view_as(shapes[name]) if name in shapes else product
            ranks[name] = value.shape[1]
        elif kind == "spn":
            spn[name] = value
    if ranks:
        info["ranks"] = ranks
    settings = _read_settings(info, path)
    return Style(
        info["id"],
        delta,
        spn,
        tensors["z_style"],
        tensors["z_counterpart"],
        settings,
        info,
        _read_palette(folder / "style.png"),
    )


def _read_palette(path: Path) -> Palette | None:
    """The palette of a bundle's style image; None where the bundle lacks the image."""
    if not path.is_file():
        return None
    with Image.open(path) as image:
        return Palette.of(image_to_tensor(image))


def _read_settings(info: dict[str, Any], path: Path) -> TrainSettings:
    settings = dict(info["settings"])
    # Styles without a recorded arithmetic were trained when `bfloat16` meant today's `auto`.
    if "arithmetic" not in info and settings.get("precision") == "bfloat16":
        settings["precision"] = "auto"
    # Styles from before the solvers were settings use DDIM.
    settings = {"encode_solver": "ddim", "decode_solver": "ddim"} | settings
    return TrainSettings.parse(settings, str(path))

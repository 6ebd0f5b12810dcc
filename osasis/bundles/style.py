"""The style: the result of training on one style image, and its bundle on disk.

On disk a style is one folder: ``style.json`` (settings, provenance), ``style.safetensors``
(epsilon_B as its difference from epsilon_A, exact or as low-rank factors, the SPN, z_style),
``style.png`` and ``counterpart.png``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from osasis.bundles.base import Base
from osasis.bundles.files import STYLE_JSON, read_bundle_json
from osasis.errors import UserError
from osasis.images.decoding import png_bytes
from osasis.images.tensors import image_to_tensor, tensor_to_image
from osasis.networks.adapters import (
    Change,
    LowRank,
    dense,
    map_change,
    tensors_of,
    truncated,
)
from osasis.networks.spn import StructurePreservingNetwork
from osasis.palette import Palette
from osasis.settings import TrainSettings
from osasis.storage import save_tensors, sha256_file, write_atomic, write_json

FORMAT = 1


@dataclass
class Style:
    """A trained style.

    delta: epsilon_B minus epsilon_A by UNet key, exact or low-rank; absent keys are unchanged. spn:
    state dict of the SPN. z_style, z_counterpart: (1, D), semantic codes of the style image and of
    its photo counterpart. palette: of the style image; None where the image is unknown. info:
    content of style.json.
    """

    id: str
    delta: dict[str, Change]
    spn: dict[str, Tensor]
    z_style: Tensor
    z_counterpart: Tensor
    settings: TrainSettings
    info: dict[str, Any] = field(default_factory=dict)
    palette: Palette | None = None

    @property
    def low_rank(self) -> bool:
        """Whether matrices are low-rank factors."""
        return any(isinstance(c, LowRank) for c in self.delta.values())

    def tensors(self) -> list[Tensor]:
        """All tensors of the style."""
        own = [self.z_style, self.z_counterpart]
        return [*tensors_of(self.delta.values()), *self.spn.values(), *own]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors())

    def spn_module(self, device: torch.device | str = "cpu") -> StructurePreservingNetwork:
        net = StructurePreservingNetwork()
        net.load_state_dict(self.spn)
        return net.to(device).requires_grad_(False).eval()

    def map(self, change: Callable[[Tensor], Tensor]) -> Style:
        """A copy with ``change`` applied to the weights and codes."""
        return replace(
            self,
            delta={k: map_change(c, change) for k, c in self.delta.items()},
            spn={k: change(v) for k, v in self.spn.items()},
            z_style=change(self.z_style),
            z_counterpart=change(self.z_counterpart),
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Style:
        """A copy on a device. non_blocking: copy from pinned memory without waiting."""
        copied = self.map(lambda t: t.to(device, non_blocking=non_blocking))
        return replace(copied, palette=self.palette and self.palette.to(device))

    def compact(self, rank: int | None = None, energy: float = 0.99) -> Style:
        """A copy whose matrices' differences are low-rank factors, truncated by SVD.

        rank: rank of every matrix; None chooses the lowest that keeps the fraction ``energy`` of a
        matrix's squared norm. Vectors, and matrices that are smaller than their factors, are
        not truncated; all weights become float16. ``info["compact"]["error"]`` is the share of the
        squared norm that is lost.
        """
        delta = {
            k: c if isinstance(c, LowRank) else truncated(c, rank, energy)
            for k, c in self.delta.items()
        }
        before = {k: dense(c) for k, c in self.delta.items()}
        lost = sum(float((before[k] - dense(c)).pow(2).sum()) for k, c in delta.items())
        total = sum(float(c.pow(2).sum()) for c in before.values())
        compact = {
            "rank": rank,
            "energy": None if rank else energy,
            "error": round(lost / max(total, 1e-30), 6),
        }
        return replace(self, delta=delta, info={**self.info, "compact": compact}).half()

    def half(self) -> Style:
        """A copy with the weights in float16, as low-rank styles are held and stored."""
        halved = self.map(Tensor.half)
        return replace(halved, z_style=self.z_style, z_counterpart=self.z_counterpart)


def save_style(
    folder: Path, style: Style, style_image: Tensor, counterpart: Tensor
) -> dict[str, Any]:
    """Write a style's folder, style.json last, and return the content of style.json.

    style_image, counterpart: (3, H, W) in [-1, 1].
    """
    tensors = {f"spn.{k}": v for k, v in style.spn.items()}
    for key, change in style.delta.items():
        if isinstance(change, LowRank):
            tensors |= {f"up.{key}": change.up, f"down.{key}": change.down}
        else:
            tensors[f"delta.{key}"] = change
    tensors |= {"z_style": style.z_style, "z_counterpart": style.z_counterpart}
    for name, picture in (("style", style_image), ("counterpart", counterpart)):
        write_atomic(folder / f"{name}.png", png_bytes(tensor_to_image(picture)))
    save_tensors(folder / "style.safetensors", tensors)
    info = {
        "format": FORMAT,
        **style.info,
        "id": style.id,
        "settings": style.settings.to_dict(),
        "weights_sha256": sha256_file(folder / "style.safetensors"),
    }
    write_json(folder / STYLE_JSON, info)
    return info


def load_style(folder: Path, base: Base | None = None, verify: bool = True) -> Style:
    """Load a style. Raises UserError if it is damaged or was trained on another base.

    base: that must fit; it gives the factors of older files their shapes.
    verify: compare the weights' SHA-256 with style.json (a few milliseconds per megabyte).
    """
    path, weights = folder / STYLE_JSON, folder / "style.safetensors"
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
    own = dict(base.diffae.unet.named_parameters()) if base is not None else {}
    tensors = load_file(weights)
    delta: dict[str, Change] = {}
    spn = {}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        if kind == "delta":
            delta[name] = value
        elif kind == "up":
            delta[name] = LowRank(value, tensors[f"down.{name}"])
        elif kind == "left":  # an older file, whose factors are flattened
            shape = own[name].shape[1:] if name in own else (-1,)
            delta[name] = LowRank(value, tensors[f"right.{name}"].view(value.shape[1], *shape))
        elif kind == "spn":
            spn[name] = value
    settings = style_settings(info, str(path))
    return Style(
        info["id"],
        delta,
        spn,
        tensors["z_style"].float(),
        tensors["z_counterpart"].float(),
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


def style_settings(info: Mapping[str, Any], name: str = "style.json") -> TrainSettings:
    """The settings of a style. info: content of style.json. name: of the file, in errors."""
    settings = dict(info["settings"])
    # Styles without a recorded arithmetic were trained when `bfloat16` meant today's `auto`.
    if "arithmetic" not in info and settings.get("precision") == "bfloat16":
        settings["precision"] = "auto"
    # Styles from before the solvers were settings use DDIM.
    settings = {"encode_solver": "ddim", "decode_solver": "ddim"} | settings
    return TrainSettings.parse(settings, name)

"""The style: an adapter with its prompt and settings, and its bundle on disk.

On disk a style is one folder: ``style.json`` (settings, prompt, provenance), ``style.safetensors``
(the factors, in the published layout) and ``style.png``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diffstyler.adapter import Adapter, Factors, Layout
from diffstyler.adapter_files import own_layout, parse_factors, save_adapter
from diffstyler.settings import StyleSettings
from osasis.bundles.files import STYLE_JSON, read_bundle_json
from osasis.errors import UserError
from osasis.images.decoding import png_bytes
from osasis.images.tensors import tensor_to_image
from osasis.storage import sha256_file, write_atomic, write_json

FORMAT, METHOD = 1, "diffstyler"
WEIGHTS = "style.safetensors"


@dataclass
class Style:
    """A trained style. prompt: that of its training. info: content of style.json."""

    id: str
    adapter: Adapter
    prompt: str
    settings: StyleSettings
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def low_rank(self) -> bool:
        """Adapters always are factors."""
        return True

    def tensors(self) -> list[Tensor]:
        """All tensors of the style."""
        return [t for f in self.adapter.factors.values() for t in (f.down, f.up)]

    @property
    def nbytes(self) -> int:
        return self.adapter.nbytes

    def map(self, change: Callable[[Tensor], Tensor]) -> Style:
        """A copy with ``change`` applied to the factors."""
        factors = {
            key: Factors(change(f.down), change(f.up)) for key, f in self.adapter.factors.items()
        }
        return replace(self, adapter=Adapter(factors, self.adapter.info))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Style:
        """A copy on a device. non_blocking: copy from pinned memory without waiting."""
        return self.map(lambda t: t.to(device, non_blocking=non_blocking))

    def half(self) -> Style:
        """A copy with the factors in float16, as styles are held and stored."""
        return self.map(Tensor.half)


def save_style(folder: Path, style: Style, style_image: Tensor) -> dict[str, Any]:
    """Write a style's folder, style.json last, and return the content of style.json.

    style_image: (3, H, W) in [-1, 1].
    """
    write_atomic(folder / "style.png", png_bytes(tensor_to_image(style_image)))
    save_adapter(folder / WEIGHTS, replace(style.adapter, info={}), torch.float16)
    info = {
        "format": FORMAT,
        "method": METHOD,
        **style.info,
        "id": style.id,
        "prompt": style.prompt,
        "settings": style.settings.to_dict(),
        "weights_sha256": sha256_file(folder / WEIGHTS),
    }
    write_json(folder / STYLE_JSON, info)
    return info


def load_style(folder: Path, layout: Layout | None = None, base: str | None = None) -> Style:
    """Load a style. Raises UserError if it is damaged or was trained on another base.

    layout, base: of ``adapter_layout``, and fingerprint, of the base that must fit; None: any.
    """
    path, weights = folder / STYLE_JSON, folder / WEIGHTS
    if not path.is_file() or not weights.is_file():
        raise UserError(f"{folder}: not a style ({STYLE_JSON} or {WEIGHTS} is missing)")
    keys = ("id", "prompt", "settings", "weights_sha256")
    info = read_bundle_json(path, FORMAT, keys, "train the style again")
    if sha256_file(weights) != info["weights_sha256"]:
        raise UserError(f"{weights}: its SHA-256 differs from style.json; train the style again")
    if base is not None and info.get("base") not in (None, base):
        raise UserError(
            f"style {info['id']!r} was trained on base {info['base']}, not on {base}; choose that "
            "base, or train the style on this one"
        )
    try:
        tensors = load_file(weights)
    except SafetensorError as e:
        raise UserError(f"{weights}: cannot be read ({e}); train the style again") from None
    factors = parse_factors(tensors, layout or own_layout(tensors), {}, str(weights))
    settings = StyleSettings.parse(info["settings"], str(path))
    return Style(info["id"], Adapter(factors), info["prompt"], settings, info).half()

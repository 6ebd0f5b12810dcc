"""Adapter files: reading the layouts of LoRA trainers, writing the published one.

The published layout is ``unet.<attention>.processor.to_q_lora.down.weight``, which diffusers'
``load_lora_weights`` reads too. Its scale is 1; the others' scale, alpha / rank, goes into ``up``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diffstyler.adapter import Adapter, Factors, Layout
from osasis.errors import UserError
from osasis.storage import save_tensors
from osasis.torch_files import read_torch_file

INFO = "info"
# Files of torch.save; the published trainer writes them.
PICKLED = (".ckpt", ".pt", ".pth", ".bin")
# <attention>, <projection> and whether down or up, by layout.
LAYOUTS = (
    # The published trainer's, of diffusers' attention processors.
    re.compile(r"(?:unet\.)?(?P<at>.+)\.processor\.(?P<to>to_\w+)_lora\.(?P<side>down|up)\.weight"),
    # peft's and diffusers'.
    re.compile(
        r"(?:unet\.|base_model\.model\.)?(?P<at>.+)\.(?P<to>to_[qkv]|to_out)(?:\.0)?"
        r"\.(?P<side>lora_A|lora_B|lora\.down|lora\.up)(?:\.default)?\.weight"
    ),
)
DOWN = ("down", "lora_A", "lora.down")
_EXPECTED = (
    "read are the published layout (unet.<attention>.processor.to_q_lora.down.weight) and peft's "
    "(unet.<attention>.to_q.lora_A.weight)"
)


def save_adapter(path: Path, adapter: Adapter, dtype: torch.dtype = torch.float32) -> None:
    """Write an adapter in the published layout, atomically. dtype: float16 halves the file."""
    tensors = {key: value.to(dtype) for key, value in published_tensors(adapter).items()}
    save_tensors(path, tensors, {INFO: json.dumps(dict(adapter.info))})


def published_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """The factors by the keys of the published layout."""
    tensors = {}
    for key, factors in adapter.factors.items():
        at, _, to = key.rpartition(".")
        stem = f"unet.{at}.processor.{to}_lora"
        tensors[f"{stem}.down.weight"] = factors.down
        tensors[f"{stem}.up.weight"] = factors.up
    return tensors


def load_adapter(path: Path, layout: Layout) -> Adapter:
    """Read an adapter as float32. layout: the base's, of ``adapter_layout``.

    The scale is taken from alpha in the file, in its metadata, or in peft's adapter_config.json
    beside it; without any it is 1. Raises UserError for a file that cannot be read, has keys of no
    known layout, or whose shapes do not fit the base; the message names the first wrong key.
    """
    tensors, metadata = _read(path)
    factors = parse_factors(tensors, layout, _peft_config(path, metadata), str(path))
    return Adapter(factors, _object(metadata.get(INFO, "{}"), path))


def parse_factors(
    tensors: Mapping[str, Tensor], layout: Layout, config: Mapping[str, Any], source: str
) -> dict[str, Factors]:
    """The factors in a file's tensors. config: peft's, may be empty. source: of the file, in
    errors. Raises UserError.
    """
    sides: dict[str, dict[str, tuple[str, Tensor]]] = {}
    alphas: dict[str, float] = {}
    for name in sorted(tensors):
        if name.endswith(".alpha"):
            key, _ = _projection(f"{name.removesuffix('.alpha')}.lora.down.weight", source)
            alphas[key] = _alpha(tensors[name], name, source)
            continue
        key, side = _projection(name, source)
        if key not in layout:
            raise UserError(
                f"{source}: {name} matches no attention of this base; it was trained on another "
                "base"
            )
        sides.setdefault(key, {})[side] = (name, tensors[name].float())
    if not sides:
        raise UserError(f"{source}: no adapter in it; {_EXPECTED}")
    default = _config_alpha(config, source)
    factors = {}
    for key, pair in sides.items():
        found = _checked(pair, layout[key], source)
        alpha = alphas.get(key, default)
        scale = 1.0 if alpha is None else alpha / found.rank
        factors[key] = found if scale == 1.0 else Factors(found.down, found.up * scale)
    return factors


def own_layout(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """The (out, in) of the projections that tensors of the published layout change.

    A layout for ``parse_factors`` where the base is unknown.
    """
    sizes: dict[str, dict[str, int]] = {}
    for name, value in tensors.items():
        if (match := LAYOUTS[0].fullmatch(name)) and value.dim() == 2:
            sides = sizes.setdefault(f"{match['at']}.{match['to']}", {})
            sides[match["side"]] = value.shape[0 if match["side"] == "up" else 1]
    return {key: (s.get("up", 0), s.get("down", 0)) for key, s in sizes.items()}


def _projection(name: str, source: str) -> tuple[str, str]:
    """(key of the projection, ``down`` or ``up``) of a tensor's name."""
    for pattern in LAYOUTS:
        if match := pattern.fullmatch(name):
            side = "down" if match["side"] in DOWN else "up"
            return f"{match['at']}.{match['to']}", side
    if name.startswith(("lora_unet_", "lora_te")):
        raise UserError(
            f"{source}: {name} is of the Kohya layout; {_EXPECTED}; load the file with diffusers' "
            "load_lora_weights and save it with save_lora_weights"
        )
    raise UserError(
        f"{source}: {name} is no factor of an attention's q, k, v or output projection in the "
        f"UNet, the only ones that adapters may change; {_EXPECTED}"
    )


def _checked(
    pair: Mapping[str, tuple[str, Tensor]], shape: tuple[int, int], source: str
) -> Factors:
    """The factors of one projection with (out, in) features, if their shapes fit."""
    if len(pair) < 2:
        ((side, (name, _)),) = pair.items()
        other = "up" if side == "down" else "down"
        raise UserError(
            f"{source}: {name} has no {other} factor; the file is incomplete; download it again"
        )
    (down_name, down), (up_name, up) = pair["down"], pair["up"]
    # A scalar, or no rows at all, do not fit either.
    rank, (out, features) = max([1, *down.shape[:1]]), shape
    for name, value, wanted in ((down_name, down, (rank, features)), (up_name, up, (out, rank))):
        if tuple(value.shape) != wanted:
            raise UserError(
                f"{source}: {name} has the shape {tuple(value.shape)}, but with rank {rank} this "
                f"base needs {wanted}; it was trained on another base"
            )
    return Factors(down, up)


def _peft_config(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """peft's configuration, which diffusers stores in the metadata and peft in a file beside."""
    if text := metadata.get("lora_adapter_metadata"):
        return {k.removeprefix("unet."): v for k, v in _object(text, path).items()}
    beside = path.with_name("adapter_config.json")
    if path.name == "adapter_model.safetensors" and beside.is_file():
        return _object(beside.read_bytes(), beside)
    return {}


def _config_alpha(config: Mapping[str, Any], source: str) -> float | None:
    """lora_alpha of a configuration of peft; None without one. Raises UserError."""
    for field in ("alpha_pattern", "use_dora", "use_rslora"):
        if config.get(field):
            raise UserError(
                f"{source}: peft's {field} is {config[field]!r}; adapters with one lora_alpha and "
                "the scale lora_alpha / r are read; train it so"
            )
    alpha = config.get("lora_alpha")
    return None if alpha is None else _alpha(alpha, "lora_alpha", source)


def _alpha(value: Any, name: str, source: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        found = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise UserError(
            f"{source}: {name} is {found}; a single number is needed; download it again"
        ) from None


def _object(text: str | bytes, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path}: its configuration is no JSON object; download it again")
    return found


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if path.suffix in PICKLED:
        found = read_torch_file(path, "an adapter")
        return {str(k): v for k, v in found.items() if isinstance(v, Tensor)}, {}
    try:
        with safe_open(path, framework="pt") as f:
            return {k: f.get_tensor(k) for k in f.keys()}, f.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError, RuntimeError, ValueError) as e:
        raise UserError(f"{path}: cannot be read as an adapter ({e}); download it again") from None

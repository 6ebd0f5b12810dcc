"""Convert official checkpoints to bases and styles, checking every key and shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from osasis.bundles.base import Base
from osasis.bundles.style import Style
from osasis.errors import UserError
from osasis.networks.checkpoint_keys import check_layout, from_official, prior_layout, spn_layout
from osasis.networks.sizes import DiffAEConfig
from osasis.settings import make_settings
from osasis.torch_files import read_torch_file

PREFIX = "ema_model."
# Keys of a DiffAE Lightning checkpoint that are not imported.
IGNORED_PREFIXES = ("model.", "x_T", "conds")


def read_diffae(
    checkpoint: Path, config: DiffAEConfig, latent_stats: Path | None = None
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Read a DiffAE checkpoint with its latent net.

    checkpoint: the Lightning checkpoint of ``*_autoenc_latent``, or a safetensors file with the
    same keys. latent_stats: ``latent.pkl`` with the mean and standard deviation of z; only needed
    if the checkpoint lacks ``conds_mean`` and ``conds_std``.
    Returns the state dict by this package's key names, and z's mean and standard deviation (1, D).
    Raises UserError naming the first missing or mismatched keys.
    """
    state = read_tensors(checkpoint)
    state = _tensors(state.get("state_dict", state), checkpoint)
    unknown = [k for k in state if not k.startswith((PREFIX, *IGNORED_PREFIXES))]
    if unknown or not any(k.startswith(PREFIX) for k in state):
        raise UserError(
            f"{checkpoint}: not a DiffAE checkpoint: "
            + (f"unknown key {unknown[0]}" if unknown else f"no key begins with {PREFIX!r}")
        )
    tensors = from_official(state, config, str(checkpoint), PREFIX)
    stats = state if latent_stats is None else read_tensors(latent_stats)
    source = checkpoint if latent_stats is None else latent_stats
    mean, std = (_stat(stats, key, config, source) for key in ("conds_mean", "conds_std"))
    if not bool((std > 0).all()):
        raise UserError(f"{source}: conds_std must be positive in every channel")
    return tensors, mean, std


def read_prior(checkpoint: Path, config: DiffAEConfig) -> dict[str, Tensor]:
    """Read a P2 (guided diffusion) checkpoint for the configuration's prior."""
    if config.prior is None:
        raise UserError(f"configuration {config.name!r} has no prior; omit {checkpoint}")
    state = _tensors(read_tensors(checkpoint), checkpoint)
    check_layout(state, prior_layout(config.prior, config.image_size), str(checkpoint))
    return {k: v.float() for k, v in state.items()}


def read_style(checkpoint: Path, base: Base, style_id: str, style_image: Tensor) -> Style:
    """Read the published code's ``iter_N.pt`` (``diffae_B`` and ``model_map``) as a style.

    style_image: (1, 3, H, W) in [-1, 1]; its z is mixed in when stylizing. The style holds the
    differences from the base's epsilon_A; unchanged UNet keys are omitted. Raises UserError naming
    the first missing or mismatched keys.
    """
    content = read_tensors(checkpoint)
    for key in ("diffae_B", "model_map"):
        if not isinstance(content.get(key), dict):
            raise UserError(f"{checkpoint}: not a style of the published code: {key!r} is missing")
    own = from_official(
        _tensors(content["diffae_B"], checkpoint),
        base.config,
        f"{checkpoint} (diffae_B)",
        prefix="",
    )
    spn = {k: v.float() for k, v in _tensors(content["model_map"], checkpoint).items()}
    check_layout(spn, spn_layout(), f"{checkpoint} (model_map)")
    delta = {}
    for key, value in base.diffae.unet.state_dict().items():
        difference = own[f"unet.{key}"].to(value) - value
        if bool(difference.any()):
            delta[key] = difference
    with torch.no_grad():
        z = base.encode_z(style_image)
    info = {"base": base.fingerprint, "imported_from": checkpoint.name}
    return Style(style_id, delta, spn, z, z, make_settings("reference"), info)


def read_tensors(path: Path) -> dict[str, Any]:
    """Load a checkpoint, also one of Lightning, without running code. Raises UserError."""
    pickled = path.is_file() and path.suffix != ".safetensors"
    return read_torch_file(path, "a checkpoint", _lightning_stand_ins(path) if pickled else ())


def _tensors(state: Any, source: Path) -> dict[str, Tensor]:
    """Check that a state dict contains only named tensors. Raises UserError naming the first other
    entry."""
    if not isinstance(state, dict):
        raise UserError(f"{source}: not a network checkpoint: no dictionary of tensors")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(
                f"{source}: {key!r} is not a tensor; a state dict must contain only named tensors"
            )
    return state


def _lightning_stand_ins(path: Path) -> list[Any]:
    """Empty stand-ins for the Lightning classes that old checkpoints use as dictionary keys.

    PyTorch Lightning before 1.5 keyed the states of callbacks by class. A stand-in under the
    class's name lets ``weights_only`` loading succeed without importing Lightning.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not a zip checkpoint, or a damaged one, which the reader reports
        return []
    return [(type("StandIn", (), {}), n) for n in names if n.startswith("pytorch_lightning.")]


def _stat(stats: dict[str, Any], key: str, config: DiffAEConfig, source: Path) -> Tensor:
    value = stats.get(key)
    if not isinstance(value, Tensor) or value.numel() != config.z_channels:
        raise UserError(
            f"{source}: no {key} with {config.z_channels} values; pass the latent.pkl that belongs "
            "to the checkpoint (--latent-stats)"
        )
    return value.float().reshape(1, -1)

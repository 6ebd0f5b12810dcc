"""Keys and shapes of the official checkpoints, derived from a configuration.

The layout is read from networks on the meta device;
``tests/osasis/networks/test_checkpoint_keys.py`` compares it with the published lists.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from osasis.errors import UserError
from osasis.networks.diffae import DiffAE
from osasis.networks.sizes import DiffAEConfig, PriorConfig
from osasis.networks.spn import StructurePreservingNetwork
from osasis.networks.unet import UNet

Layout = dict[str, torch.Size]


def diffae_layout(config: DiffAEConfig, prefix: str = "ema_model.") -> Layout:
    """Keys and shapes of an official DiffAE checkpoint with latent net."""
    return _shapes(to_official(_meta_state(config), prefix))


def prior_layout(config: PriorConfig, image_size: int) -> Layout:
    """Keys and shapes of a guided-diffusion (P2) checkpoint."""
    with torch.device("meta"):
        return _shapes(UNet(config.unet(image_size)).state_dict())


def spn_layout() -> Layout:
    """Keys and shapes of a structure-preserving network."""
    with torch.device("meta"):
        return _shapes(StructurePreservingNetwork().state_dict())


def from_official(
    state: Mapping[str, Tensor], config: DiffAEConfig, source: str, prefix: str = "ema_model."
) -> dict[str, Tensor]:
    """Rename an official DiffAE state to this package's names, float32.

    ``state`` must contain exactly the layout's keys below ``prefix``; other keys are ignored.
    Raises UserError naming the first keys that are missing, unknown or of another shape.
    """
    own = {k: v for k, v in state.items() if k.startswith(prefix)}
    check_layout(own, diffae_layout(config, prefix), source)
    return {k: state[_official_key(k, prefix)].float() for k in _meta_state(config)}


def to_official(state: Mapping[str, Tensor], prefix: str = "ema_model.") -> dict[str, Tensor]:
    """Rename this package's state to the official names; the inverse of ``from_official``."""
    renamed = {}
    for key, value in state.items():
        official = _official_key(key, prefix)
        renamed[official] = value
        # Official checkpoints store this linear layer twice.
        if "latent_net." in key and ".linear_emb." in key:
            renamed[official.replace(".linear_emb.", ".cond_layers.1.")] = value
    return renamed


def check_layout(state: Mapping[str, Tensor], layout: Layout, source: str) -> None:
    """Raise UserError unless ``state`` has exactly the layout's keys and shapes."""
    problems = [f"{k} is missing" for k in layout if k not in state]
    problems += [f"{k} is unknown" for k in state if k not in layout]
    problems += [
        f"{k} has shape {list(state[k].shape)}, not {list(shape)}"
        for k, shape in layout.items()
        if k in state and state[k].shape != shape
    ]
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"{source}: does not fit the configuration: {'; '.join(problems[:3])}{more}; "
            "choose the --config that the checkpoint was trained with"
        )


def _official_key(key: str, prefix: str) -> str:
    return prefix + key.removeprefix("unet.")


def _meta_state(config: DiffAEConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        return DiffAE(config).state_dict()


def _shapes(state: Mapping[str, Tensor]) -> Layout:
    return {k: v.shape for k, v in state.items()}

"""Weight files of evaluation's networks."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

from osasis.errors import UserError
from osasis.storage import sha256_file, sha256_text
from osasis.torch_files import read_torch_file

Net = TypeVar("Net", bound=nn.Module)

# What trainings store beside weights: their arguments, and numpy's numbers, under the names of
# numpy 1 and 2. None of these runs code.
SCALAR = np.float64(0).__reduce__()[0]
PLAIN_VALUES: list[Any] = [
    argparse.Namespace,
    np.dtype,
    type(np.dtype(np.float64)),
    SCALAR,
    (SCALAR, "numpy.core.multiarray.scalar"),
]

# Names that a folder of weights may hold, by network.
FILES = {
    "lpips_alex": ("lpips_alex.safetensors",),
    "lpips_vgg": ("lpips_vgg.safetensors",),
    "dino": ("dino_vitbase8_pretrain.safetensors", "dino_vitbase8_pretrain.pth"),
    "arcface": tuple(
        f"arcface_r{depth}.{kind}" for depth in (100, 50) for kind in ("safetensors", "pth")
    ),
    "csd": ("csd_vit-l.safetensors", "csd_vit-l.pth"),
    "inception": ("weights-inception-2015-12-05-6726825d.pth",),
}


# Networks whose weights a metric or a baseline uses where they are given.
NETWORKS = {
    "lpips": ("lpips_alex",),
    "identity": ("arcface",),
    "structure": ("dino", "lpips_vgg"),
    "style": ("lpips_alex",),
    "csd": ("csd",),
    "csls": ("csd",),
    "fid": ("inception", "lpips_alex"),
    "artfid": ("inception", "lpips_alex"),
    "gatys": ("lpips_vgg",),
}


def weights_digest(folder: Path | None, name: str) -> str:
    """Hash of the weights that a metric or baseline finds in a folder; "" where it finds none."""
    paths = [path for n in NETWORKS.get(name, ()) if (path := find_weights(folder, n)) is not None]
    return sha256_text(" ".join(sha256_file(path) for path in paths))[:12] if paths else ""


def check_digests(folder: Path | None, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raise UserError where this machine's weights are others than those that a call names.

    found, wanted: hashes of weights by what uses them, here and where the call was made.
    """
    other = [name for name in wanted if found[name] != wanted[name]]
    if other:
        raise UserError(
            f"{folder} on {socket.gethostname()} has other weights for {', '.join(other)} than on "
            "the machine of the command, or none; put the same files at this path on every node"
        )


def find_weights(folder: Path | None, network: str) -> Path | None:
    """The network's file in a folder of weights; None where it is not there."""
    if folder is None:
        return None
    return next((folder / n for n in FILES[network] if (folder / n).is_file()), None)


def load_weights(path: Path) -> dict[str, Tensor]:
    """A state dict of a safetensors or PyTorch file; no pickled code is run. Raises UserError.

    A PyTorch file may be a training's checkpoint that holds the state dict as model_state_dict.
    """
    state = read_torch_file(path, "weights", PLAIN_VALUES)
    state = state.get("model_state_dict", state)
    if not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: contains other values than tensors; give a state dict")
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def load_into(net: Net, state: dict[str, Tensor], path: Path, name: str) -> Net:
    """The network with these weights, for inference; every key and shape must match.

    name: of the network. Raises UserError naming the first key that differs.
    """
    own = net.state_dict()
    wrong = sorted(set(own) ^ set(state)) or [k for k in own if own[k].shape != state[k].shape]
    if wrong:
        raise UserError(f"{path}: not the weights of {name} (first at {wrong[0]})")
    net.load_state_dict(state)
    return net.requires_grad_(False).eval()

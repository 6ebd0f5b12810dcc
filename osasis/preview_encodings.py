"""Precomputed encodings of a base's preview photos.

They are independent of the style and cost more CPU time than decoding. They are computed in
float32, so that the previews and metrics of a style are the same on every machine.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from osasis.bundles.base import Base, load_base
from osasis.contents import HELD_OUT
from osasis.encode import EncodePlan, Encodings, encode, encode_plan
from osasis.errors import UserError
from osasis.images.tensors import from_uint8
from osasis.settings import PRESETS, TrainSettings, make_settings
from osasis.storage import save_tensors

FILE = "previews.safetensors"
PARTS = ("photo", "z", "x_t0")


def ship_previews(folder: Path, settings: TrainSettings) -> Path:
    """Encode the held-out photos of a base for these settings and write them to its folder.

    Returns the file. Raises UserError where the base has no photos.
    """
    base = load_base(folder)
    if base.photos is None:
        raise UserError(f"base {base.name!r} has no photos of its own")
    photos = from_uint8(base.photos[-HELD_OUT:])
    return save_previews(folder, base, encode(base, photos, preview_plan(settings)))


def preview_plan(settings: TrainSettings) -> EncodePlan:
    """The plan that encodes the preview photos of a style with these settings."""
    return replace(encode_plan(None, settings, torch.device("cpu")), arithmetic="float32")


def save_previews(folder: Path, base: Base, encodings: Encodings) -> Path:
    """Write encodings to a base's folder."""
    tensors = {name: getattr(encodings, name) for name in PARTS}
    save_tensors(folder / FILE, tensors, _key(base, encodings.plan))
    return folder / FILE


def shipped_previews(
    folder: Path, base: Base, photos: Tensor, plan: EncodePlan
) -> Encodings | None:
    """Read the encodings of these photos (N, 3, H, W) from a base's folder.

    None where the folder has none for this base, these exact photos and this plan.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as f:
        if f.metadata() != _key(base, plan):
            return None
        photo, z, x_t0 = (f.get_tensor(name).to(photos.device) for name in PARTS)
    return Encodings(photos, z, x_t0, plan) if torch.equal(photo, photos) else None


def _key(base: Base, plan: EncodePlan) -> dict[str, str]:
    return {"base": base.fingerprint, **{k: str(v) for k, v in asdict(plan).items()}}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m osasis.preview_encodings",
        description="Write the encodings of a base's preview photos to its folder.",
    )
    parser.add_argument("base", type=Path, help="folder of the base")
    parser.add_argument("--preset", default="fast", choices=sorted(PRESETS))
    args = parser.parse_args()
    try:
        print(ship_previews(args.base, make_settings(args.preset)))
    except UserError as e:
        parser.error(str(e))


if __name__ == "__main__":
    main()

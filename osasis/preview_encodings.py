"""Encodings that a base brings along of the photos that every style is shown and measured on.

They do not depend on a style, and encoding them takes a CPU longer than decoding them. They are
computed in float32, so that a style's previews and metrics are the same on every kind of machine.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from osasis.bundles.base import Base, load_base
from osasis.contents import HELD_OUT
from osasis.errors import UserError
from osasis.images.tensors import from_uint8
from osasis.settings import PRESETS, TrainSettings, make_settings
from osasis.storage import save_tensors
from osasis.stylize import EncodePlan, Encodings, encode

FILE = "previews.safetensors"
PARTS = ("photo", "z", "x_t0")


def ship_previews(folder: Path, settings: TrainSettings) -> Path:
    """Lay the encodings of a base's held-out photos into its folder, for these settings.

    Raises UserError where the base has no photos. Returns the file.
    """
    base = load_base(folder)
    if base.photos is None:
        raise UserError(f"base {base.name!r} has no photos of its own")
    photos = from_uint8(base.photos[-HELD_OUT:])
    return save_previews(folder, base, encode(base, photos, preview_plan(settings)))


def preview_plan(settings: TrainSettings) -> EncodePlan:
    """How the preview photos of a style with these settings are encoded."""
    return EncodePlan(settings.t0, settings.stylize_encode_steps, "float32")


def save_previews(folder: Path, base: Base, made: Encodings) -> Path:
    """Write encodings into a base's folder."""
    tensors = {name: getattr(made, name) for name in PARTS}
    save_tensors(folder / FILE, tensors, _key(base, made.plan))
    return folder / FILE


def shipped_previews(
    folder: Path, base: Base, photos: Tensor, plan: EncodePlan
) -> Encodings | None:
    """The encodings in a base's folder, where they are of this base and exactly these photos
    (N, 3, H, W) and were made by this plan; else None."""
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
        description="Ship the previews' encodings with a base.",
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

"""Encodings that a base brings along of the photos that every style is shown and measured on.

They do not depend on a style, and encoding them takes a CPU longer than decoding them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from osasis.bundles.base import Base, load_base, photo_tensor
from osasis.contents import HELD_OUT
from osasis.errors import UserError
from osasis.settings import PRESETS, TrainSettings, make_settings
from osasis.storage import save_tensors
from osasis.stylize import Encodings, encode

FILE = "previews.safetensors"
PARTS = ("photo", "z", "x_t0")


def ship_previews(folder: Path, settings: TrainSettings) -> Path:
    """Lay the encodings of a base's held-out photos into its folder, for these settings.

    Raises UserError where the base has no photos. Returns the file.
    """
    base = load_base(folder)
    if base.photos is None:
        raise UserError(f"base {base.name!r} has no photos of its own")
    photos = photo_tensor(base.photos[-HELD_OUT:])
    steps, precision = settings.stylize_encode_steps, settings.precision
    made = encode(base, photos, t0=settings.t0, steps=steps, precision=precision)
    return save_previews(folder, base, made, precision)


def save_previews(folder: Path, base: Base, made: Encodings, precision: str) -> Path:
    """Write encodings into a base's folder. precision: that they were computed in."""
    tensors = {name: getattr(made, name) for name in PARTS}
    save_tensors(folder / FILE, tensors, _key(base, made.t0, made.steps, precision))
    return folder / FILE


def shipped_previews(
    folder: Path, base: Base, photos: Tensor, *, t0: float, steps: int, precision: str
) -> Encodings | None:
    """The encodings in a base's folder, where they are of this base and just these photos
    (N, 3, H, W), encoded just so; else None."""
    path = folder / FILE
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as f:
        if f.metadata() != _key(base, t0, steps, precision):
            return None
        photo, z, x_t0 = (f.get_tensor(name).to(photos.device) for name in PARTS)
    return Encodings(photos, z, x_t0, t0, steps) if torch.equal(photo, photos) else None


def _key(base: Base, t0: float, steps: int, precision: str) -> dict[str, str]:
    return {
        "base": base.fingerprint, "t0": str(t0), "steps": str(steps), "precision": precision,
    }  # fmt: skip


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

"""Procedural looks: photos painted by this project's own code.

What the guide learns from, and the style images of the demo. A look has wide ranges of its
parameters; a seed picks them, so that the same look and seed on two photos are one style.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from osasis.errors import UserError, did_you_mean
from osasis.pretraining import looks_paint as by_hand
from osasis.pretraining import looks_print as press
from osasis.pretraining.looks_tools import Dice
from osasis.seeds import derived_seed

Painter = Callable[[Tensor, Dice], Tensor]

LOOKS: dict[str, Painter] = {
    "oil": by_hand.oil,
    "impasto": by_hand.impasto,
    "watercolour": by_hand.watercolour,
    "gouache": by_hand.gouache,
    "pastel": by_hand.pastel,
    "pointillism": by_hand.pointillism,
    "mosaic": by_hand.mosaic,
    "stained-glass": by_hand.stained_glass,
    "tapestry": by_hand.tapestry,
    "charcoal": by_hand.charcoal,
    "pencil": by_hand.pencil,
    "hatching": by_hand.hatching,
    "chalk": by_hand.chalk,
    "ink": press.ink,
    "pen": press.pen,
    "engraving": press.engraving,
    "woodcut": press.woodcut,
    "halftone": press.halftone,
    "sepia": press.sepia,
    "silver": press.silver,
    "cyanotype": press.cyanotype,
    "posterised": press.posterised,
    "pop": press.pop,
    "risograph": press.risograph,
    "blueprint": press.blueprint,
    "neon": press.neon,
}

# Lines finer than a pixel of a small picture need room: smaller ones are painted at twice the size.
PAINT_SIDE = 128


def paint(photo: Tensor, look: str, seed: int) -> Tensor:
    """One photo in one look. (3, H, W) in [-1, 1] -> the same; sides of 16 px and more.

    The same photo, look and seed give the same picture. Raises UserError for an unknown look.
    """
    if look not in LOOKS:
        raise UserError(
            f"unknown look {look!r}{did_you_mean(look, LOOKS)}: choose one of {', '.join(LOOKS)}"
        )
    if photo.dim() != 3 or photo.shape[0] != 3 or min(photo.shape[1:]) < 16:
        raise ValueError(f"a photo is (3, H, W) with sides of 16 or more, not {tuple(photo.shape)}")
    h, w = photo.shape[1:]
    x = (photo.detach().float().cpu() / 2 + 0.5).clamp(0, 1)
    factor = -(-PAINT_SIDE // min(h, w))
    if factor > 1:
        x = F.interpolate(x[None], (h * factor, w * factor), mode="bicubic")[0].clamp(0, 1)
    picture = LOOKS[look](x, Dice(derived_seed(seed, f"look {look}"))).clamp(0, 1)
    if factor > 1:
        picture = F.interpolate(picture[None], (h, w), mode="bicubic", antialias=True)[0]
    return (picture.clamp(0, 1) * 2 - 1).contiguous()


def main(argv: list[str] | None = None) -> int:
    """``python -m osasis.pretraining.looks PHOTO... --look NAME --seed N --out FILE``."""
    from osasis.images.decoding import load_image, png_bytes
    from osasis.images.geometry import fit_square
    from osasis.images.tensors import image_to_tensor, tensor_to_image
    from osasis.storage import write_atomic

    parser = argparse.ArgumentParser(
        prog="python -m osasis.pretraining.looks", description="Paint photos."
    )
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    parser.add_argument("--look", default="all", help=f"all, or of: {', '.join(LOOKS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=256, help="side in pixels")
    parser.add_argument("--out", type=Path, required=True, help="a PNG; several make a sheet")
    args = parser.parse_args(argv)
    try:
        names = list(LOOKS) if args.look == "all" else args.look.split(",")
        photos = [
            image_to_tensor(fit_square(load_image(p, target=args.size), args.size))
            for p in args.photos
        ]
        rows = [torch.cat([paint(p, n, args.seed) for n in names], dim=2) for p in photos]
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    write_atomic(args.out, png_bytes(tensor_to_image(torch.cat(rows, dim=1))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

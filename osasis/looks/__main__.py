"""``python -m osasis.looks PHOTO... --look NAME --seed N --out FILE``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from osasis.errors import UserError
from osasis.images.decoding import png_bytes
from osasis.images.tensors import load_square, tensor_to_image
from osasis.looks import LOOKS, paint
from osasis.storage import write_atomic


def main(argv: list[str] | None = None) -> int:
    """Paint photos in one or more looks. Exit codes: 0 success, 2 invalid input."""
    parser = argparse.ArgumentParser(
        prog="python -m osasis.looks",
        description="Paint photos in procedural looks.",
    )
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    parser.add_argument("--look", default="all", help=f"all, or some of {','.join(LOOKS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=256, help="side in pixels")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="PNG file with a row per photo and a column per look",
    )
    args = parser.parse_args(argv)
    try:
        names = list(LOOKS) if args.look == "all" else args.look.split(",")
        photos = [load_square(path, args.size) for path in args.photos]
        rows = [torch.cat([paint(p, name, args.seed) for name in names], dim=2) for p in photos]
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    write_atomic(args.out, png_bytes(tensor_to_image(torch.cat(rows, dim=1))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

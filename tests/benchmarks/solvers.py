"""Reconstructions by network calls: which solver and spacing loses least of the photo.

    python -m tests.benchmarks.solvers PHOTOS [--weights DIR] [--count 12] [--t0 0.5]

Photos are inverted with epsilon_A to t0 and denoised again, without any style. Printed as a
Markdown table: network calls there and back, LPIPS, and the distance of face embeddings (0.6 is
another person). Needs the extra `faces`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from osasis.bundles.base import Base, load_base
from osasis.bundles.files import shipped_bases
from osasis.choices import DecodeSolver, EncodeSolver, Spacing
from osasis.evaluation.choose import choose_metrics
from osasis.evaluation.metric import Pair, Picture
from osasis.images.listing import find_images
from osasis.images.tensors import load_square
from osasis.sampling import INVERTERS, denoising_walk, inversion_calls, sample

# Spacing, inversion and its steps, denoising and its steps; steps of a full schedule.
ROWS: list[tuple[Spacing, EncodeSolver, int, DecodeSolver, int]] = [
    ("leading", "ddim", 100, "ddim", 50),
    ("trailing", "ddim", 50, "ddim", 50),
    ("trailing", "ddim", 20, "ddim", 10),
    ("trailing", "fixed_point", 4, "ddim", 4),
    ("trailing", "fixed_point", 8, "ddim", 8),
    ("trailing", "fixed_point", 10, "ddim", 10),
    ("trailing", "fixed_point", 20, "ddim", 20),
    ("quadratic", "ddim", 20, "ddim", 10),
    ("quadratic", "fixed_point", 8, "ddim", 8),
    ("quadratic", "fixed_point", 10, "ddim", 10),
    ("quadratic", "dpmpp_2m", 2, "dpmpp_2m", 2),
    ("quadratic", "dpmpp_2m", 6, "dpmpp_2m", 6),
    ("quadratic", "dpmpp_2m", 10, "dpmpp_2m", 10),
    ("quadratic", "dpmpp_2m", 20, "dpmpp_2m", 10),
    ("quadratic", "dpmpp_2m", 30, "dpmpp_2m", 16),
]


@torch.no_grad()
def reconstruct(
    base: Base, photo: Tensor, row: tuple[Spacing, EncodeSolver, int, DecodeSolver, int], t0: float
) -> Tensor:
    """Invert a photo (1, 3, H, W) to t0 and denoise it again with epsilon_A."""
    spacing, encode, encode_steps, decode, decode_steps = row
    eps = base.eps_a(base.encode_z(photo))
    x_t0 = INVERTERS[encode](eps, photo, spacing, encode_steps, t0, None)
    return sample(eps, x_t0, decode, denoising_walk(spacing, decode_steps, t0)).clamp(-1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", type=Path, help="folder with LPIPS weights")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--t0", type=float, default=0.5)
    args = parser.parse_args()
    base = load_base(shipped_bases()["portraits64"])
    chosen = choose_metrics(base, ("lpips", "identity"), args.weights)
    if chosen.unavailable:
        parser.error("; ".join(chosen.unavailable.values()))
    files = find_images(args.photos)[: args.count]
    photos = [Picture(load_square(path, base.config.image_size)) for path in files]
    print("| spacing | inversion (calls) | denoising (calls) | LPIPS | identity distance |")
    print("|---|---|---|---|---|")
    for row in ROWS:
        spacing, encode, encode_steps, decode, decode_steps = row
        pairs = [
            Pair(photo, Picture(reconstruct(base, photo.batch, row, args.t0)[0]), photo, photo)
            for photo in photos
        ]
        there = inversion_calls(encode, spacing, encode_steps, args.t0)
        back = denoising_walk(spacing, decode_steps, args.t0).count
        values = " | ".join(f"{metric.of(pairs):.4f}" for metric in chosen.metrics)
        print(f"| {spacing} | {encode} ({there}) | {decode} ({back}) | {values} |", flush=True)


if __name__ == "__main__":
    main()

"""Write the base that the package ships, and the example photos and style images.

    python infra/pack_base.py --diffae RUN/weights/diffae.safetensors --config portraits64 \\
        --perceptual perceptual.safetensors --guide GUIDE

The photos are samples of the base, and the style images are painted on samples by
``osasis.looks``, so that the package contains no training data.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from osasis.bundles.base import load_base, save_base
from osasis.bundles.files import SHIPPED
from osasis.bundles.importers import read_diffae
from osasis.guides.perceptual import PerceptualNet
from osasis.images.decoding import png_bytes
from osasis.images.grid import save_image_grid
from osasis.images.tensors import tensor_to_image, to_uint8
from osasis.looks import paint
from osasis.networks.sizes import load_config
from osasis.pretraining.evaluate_base import draw_samples
from osasis.storage import sha256_file, write_atomic

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "factory" / "examples"
SHARD_BYTES = 9_000_000
# The samples to show, to leave out and to paint the looks on, chosen by eye.
CHOICE = ROOT / "infra" / "embedded_base.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--diffae", required=True, type=Path)
    parser.add_argument("--config", required=True)
    parser.add_argument("--perceptual", required=True, type=Path)
    parser.add_argument(
        "--guide", required=True, type=Path, help="folder written by base train-guide"
    )
    parser.add_argument("--sheet", type=Path, help="file for a grid of all samples")
    args = parser.parse_args()
    choice = json.loads(CHOICE.read_text())
    config = load_config(args.config)
    tensors, mean, std = read_diffae(args.diffae, config)
    folder = SHIPPED / config.name
    learned = json.loads((args.guide / "guide.json").read_text())
    card = {k: learned[k] for k in ("model", "facts")}
    guide = {
        "kind": "combined",
        "parts": [
            {**choice["statistics"], "kind": "statistics"},
            {
                "kind": "open_clip",
                "weight": choice["learned_weight"],
                "pretrained": None,
                "config": f"{learned['model']}.json",
                **card,
            },
        ],
    }

    def save(photos: torch.Tensor | None) -> None:
        save_base(
            folder,
            name=config.name,
            config=config,
            diffae={k: v.half() for k, v in tensors.items()},
            z_mean=mean,
            z_std=std,
            guide=guide,
            guide_weights=load_file(args.guide / "guide.safetensors"),
            perceptual=PerceptualNet("small", args.perceptual),
            prior=None,
            photos=photos,
            provenance={
                "sources": {
                    p.name: {"sha256": sha256_file(p)}
                    for p in (args.diffae, args.perceptual, args.guide / "guide.safetensors")
                },
                "licence": "Apache-2.0",
                "card": "docs/model-card.md",
            },
            shard_bytes=SHARD_BYTES,
        )

    for old in folder.glob("*"):
        old.unlink()
    name = f"{learned['model']}.json"
    write_atomic(folder / name, (args.guide / name).read_bytes())
    save(None)
    base = load_base(folder)
    samples = draw_samples(base, choice["samples"], steps=choice["steps"], seed=choice["seed"])
    if args.sheet:
        save_image_grid(args.sheet, samples, columns=8)
    shown = choice["photos"]
    # The shown photos come last: the last photos of a base are previews and not trained on.
    order = [i for i in range(len(samples)) if i not in shown and i not in choice["left_out"]]
    kept = samples[torch.tensor(order + shown)]
    save(to_uint8(kept))
    for old in [*EXAMPLES.glob("photos/*.png"), *EXAMPLES.glob("styles/*.png")]:
        old.unlink()
    for number, i in enumerate(shown, start=1):
        picture = png_bytes(tensor_to_image(samples[i]))
        write_atomic(EXAMPLES / "photos" / f"portrait-{number:02}.png", picture)
    for name, (look, sample, seed) in choice["styles"].items():
        write_atomic(
            EXAMPLES / "styles" / f"{name}.png",
            png_bytes(tensor_to_image(paint(samples[sample], look, seed))),
        )


if __name__ == "__main__":
    main()

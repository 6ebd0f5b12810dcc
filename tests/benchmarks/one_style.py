"""Time of the parts of one style: content bank, counterpart, training, stylization of photos.

    python -m tests.benchmarks.one_style --base HOME/bases/NAME --style IMAGE --photos DIR

Runs in this process, without Ray. Prints one JSON document with seconds. Compare runs on the same
machine only.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from osasis.bundles.base import load_base
from osasis.counterpart import photo_counterpart
from osasis.encode import encode, encode_plan
from osasis.images.listing import find_images
from osasis.images.tensors import load_square
from osasis.mix import Mix
from osasis.settings import make_settings
from osasis.stylize import decode
from osasis.train import StyleTrainer
from tests.tiny import build_bank


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--style", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    overrides = {"iterations": args.iterations} if args.iterations else {}
    settings = make_settings(args.preset, **overrides)
    base = load_base(args.base)
    size = base.config.image_size
    seconds: dict[str, float] = {}

    def timed(name: str, start: float) -> None:
        seconds[name] = round(time.perf_counter() - start, 2)

    start = time.perf_counter()
    bank = build_bank(base, settings)
    timed("content_bank", start)

    image = load_square(args.style, size)[None]
    start = time.perf_counter()
    counterpart = photo_counterpart(base, image, settings, bank.contents)
    timed("counterpart", start)

    start = time.perf_counter()
    trainer = StyleTrainer(base, image, counterpart, bank, settings)
    for _ in range(settings.iterations):
        trainer.step()
    timed("training", start)
    style = trainer.style("benchmark")

    photos = torch.stack([load_square(p, size) for p in find_images(args.photos)])
    start = time.perf_counter()
    encodings = encode(base, photos, encode_plan(None, settings, base.device))
    timed("encode", start)
    start = time.perf_counter()
    decode(base, encodings, Mix.of("benchmark"), {"benchmark": style})
    timed("decode", start)

    print(
        json.dumps(
            {
                "threads": args.threads,
                "preset": args.preset,
                "iterations": settings.iterations,
                "photos": len(photos),
                "seconds": seconds,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()

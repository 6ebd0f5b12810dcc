"""Full weights, their truncations and trained factors: size, time, memory and pictures.

    python -m tests.benchmarks.ranks --styles DIR --photos DIR --weights DIR --out DIR

Trains every style image with all weights of epsilon_B, truncates the result by SVD (``svd-R``), and
trains factors of the same rank (``lora-R``); all else is equal. The pictures are made with the
preset's mix. ``style``, ``identity`` and ``lpips_to_full`` (AlexNet, to the pictures of the full
weights) are means over photos and styles. ``seconds`` is processor time of the iterations on one
thread, ``memory_mb`` the counted memory of a training step. Results are stored per style, and the
same command resumes a stopped run. Prints a Markdown table; DIR/STYLE.png has a row per variant.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from osasis.bundles.base import Base, load_base
from osasis.bundles.files import shipped_bases
from osasis.bundles.style import Style
from osasis.contents import ContentBank
from osasis.counterpart import photo_counterpart
from osasis.encode import Encodings, encode, encode_plan
from osasis.evaluation.choose import choose_metrics
from osasis.evaluation.metric import Metric, Pair, Picture
from osasis.images.grid import save_image_grid
from osasis.images.listing import find_images
from osasis.images.tensors import load_square
from osasis.memory import step_memory
from osasis.mix import Mix
from osasis.networks.adapters import tensors_of
from osasis.settings import TrainSettings, make_settings
from osasis.storage import write_json
from osasis.stylize import decode
from osasis.train import StyleTrainer
from tests.tiny import build_bank

COLUMNS = ("adapter_mb", "style_mb", "seconds", "memory_mb", "style", "identity", "lpips_to_full")


@dataclass(frozen=True)
class Bench:
    """What all styles share."""

    base: Base
    settings: TrainSettings
    bank: ContentBank
    photos: Tensor
    encodings: Encodings
    metrics: dict[str, Metric]
    ranks: list[int]

    @classmethod
    def open(cls, photos: Path, count: int, weights: Path, ranks: str) -> Bench:
        base = load_base(shipped_bases()["portraits64"])
        settings = make_settings(base.preset, compact_rank=None)
        files = find_images(photos)[:count]
        squares = torch.stack([load_square(p, base.config.image_size) for p in files])
        encodings = encode(base, squares, encode_plan(None, settings, base.device))
        chosen = choose_metrics(base, ("style", "identity", "lpips"), weights).metrics
        bank, metrics = build_bank(base, settings), {m.name: m for m in chosen}
        return cls(
            base, settings, bank, squares, encodings, metrics, list(map(int, ranks.split(",")))
        )

    def measure(self, path: Path, out: Path) -> None:
        """Write the figures and the pictures of one style image."""
        image = load_square(path, self.base.config.image_size)[None]
        counterpart = photo_counterpart(self.base, image, self.settings, self.bank)
        rows: dict[str, dict[str, float]] = {}
        lines, full = [torch.cat([image, self.photos])], None
        for name, style, seconds, memory in self.variants(image, counterpart):
            pictures = decode(self.base, self.encodings, Mix.of("style"), {"style": style})
            full = pictures if full is None else full
            pairs = zip_pairs(self.photos, pictures, image, counterpart)
            to_full = zip_pairs(full, pictures, image, counterpart)
            rows[name] = {
                "adapter_mb": sum(t.nbytes for t in tensors_of(style.delta.values())) / 1e6,
                "style_mb": style.nbytes / 1e6,
                "seconds": seconds,
                "memory_mb": memory / 1e6,
                "style": self.metrics["style"].of(pairs),
                "identity": self.metrics["identity"].of(pairs),
                "lpips_to_full": self.metrics["lpips"].of(to_full),
            }
            lines.append(torch.cat([image, pictures]))
        save_image_grid(out.with_suffix(".png"), torch.cat(lines), columns=len(self.photos) + 1)
        write_json(out, rows)

    def variants(
        self, image: Tensor, counterpart: Tensor
    ) -> Iterator[tuple[str, Style, float, float]]:
        """Name, style, seconds of the iterations and counted bytes of a step, of each variant."""
        full, seconds, memory = self.train(image, counterpart, adapter="full")
        yield "full", full, seconds, memory
        for rank in self.ranks:
            yield f"svd-{rank}", full.compact(rank=rank), seconds, memory
        for rank in self.ranks:
            trained = self.train(image, counterpart, adapter="lora", adapter_rank=rank)
            yield f"lora-{rank}", *trained

    def train(
        self, image: Tensor, counterpart: Tensor, **changes: Any
    ) -> tuple[Style, float, float]:
        settings = self.settings.replace(**changes)
        trainer = StyleTrainer(self.base, image, counterpart, self.bank, settings)
        memory = step_memory(trainer)[0].first
        started = time.process_time()
        while trainer.iteration < settings.iterations:
            trainer.step()
        return trainer.style("style"), time.process_time() - started, memory


def zip_pairs(photos: Tensor, pictures: Tensor, image: Tensor, counterpart: Tensor) -> list[Pair]:
    style = Picture(image[0]), Picture(counterpart[0])
    return [Pair(Picture(a), Picture(b), *style) for a, b in zip(photos, pictures, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("styles", "photos", "weights", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--ranks", default="4,8,16,32")
    parser.add_argument("--count", type=int, default=12, help="photos to stylize")
    args = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench.open(args.photos, args.count, args.weights, args.ranks)
    results = []
    for path in find_images(args.styles):
        out = args.out / f"{path.stem}.json"
        if not out.is_file():
            bench.measure(path, out)
        results.append(json.loads(out.read_text()))
    print("| variant | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (len(COLUMNS) + 1))
    for name in results[0]:
        means = (mean(r[name][column] for r in results) for column in COLUMNS)
        print(f"| {name} | " + " | ".join(f"{value:.3g}" for value in means) + " |")


if __name__ == "__main__":
    main()

"""Train the same styles with different guides, measure them and write their pictures.

    python -m tests.benchmarks.guides --styles IMAGE... --photos DIR --lpips DIR --out DIR

Guides: A, statistics of LPIPS's VGG with LPIPS(VGG) as the distance; B, the base's statistics
guide alone; C, its open_clip guide alone; D, both, weighted as in the base. Photo counterpart,
content bank and random draws are the same for all. LPIPS's weights (``lpips_vgg.safetensors``,
``lpips_alex.safetensors``) are read from --lpips. The measures use AlexNet, which is part of none
of the guides:

- style: distance of channel statistics to the style image's, as a share of the photos' own
- found: how often the photo nearest to a stylization (LPIPS of grey pictures) is its own
- edges: 1 - cosine of lightness gradients between photo and stylization

Results are stored per style and guide, and the same command resumes a stopped run. Prints one JSON
document. DIR/STYLE.png has a row of photos, then a row for each guide and number of iterations;
each row starts with the style image and its photo counterpart.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from osasis.bundles.base import Base, load_base
from osasis.bundles.files import shipped_bases
from osasis.contents import ContentBank
from osasis.counterpart import photo_counterpart
from osasis.encode import Encodings, encode, encode_plan
from osasis.guides.guide import CombinedGuide, StatisticsGuide
from osasis.guides.perceptual import PerceptualNet
from osasis.images.decoding import png_bytes
from osasis.images.listing import find_images
from osasis.images.tensors import load_square, tensor_to_image
from osasis.losses import edge_loss
from osasis.mix import Mix
from osasis.settings import TrainSettings, make_settings
from osasis.storage import save_tensors, write_atomic, write_json
from osasis.stylize import decode
from osasis.train import StyleTrainer
from tests.tiny import build_bank

GREY = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)


def with_guide(base: Base, name: str, weights: Path) -> Base:
    """The base with another guide (and, for A, another perceptual net)."""
    assert isinstance(base.guide, CombinedGuide)
    parts = dict(zip("BC", base.guide.guides, strict=True))
    if name == "D":
        return base
    if name in parts:
        return base.replace(guide=parts[name])
    statistics = parts["B"]
    assert isinstance(statistics, StatisticsGuide)
    vgg = PerceptualNet("vgg", weights / "lpips_vgg.safetensors")
    return base.replace(perceptual=vgg, guide=StatisticsGuide(vgg, statistics.stages))


class AlexNetMetrics:
    """Metrics of stylizations by AlexNet features, with other photos for comparison."""

    def __init__(self, weights: Path, photos: Tensor) -> None:
        """photos: (N, 3, H, W); the first rows are the photos that are stylized."""
        self.net = PerceptualNet("alex", weights / "lpips_alex.safetensors")
        self.photos = photos
        self.grey = [f.float() for f in self.net.features(_grey(photos))]

    def statistics(self, images: Tensor) -> Tensor:
        maps = [images, *self.net.stages(images, 3)]
        parts = []
        for f in maps:
            var, mean = torch.var_mean(f, dim=(2, 3), correction=0)
            parts.append(torch.cat([mean, (var + 1e-6).sqrt()], dim=1) / f.shape[1] ** 0.5)
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def measure(self, stylized: Tensor, style_image: Tensor) -> dict[str, float]:
        photos = self.photos[: len(stylized)]
        target = self.statistics(style_image)
        after = (self.statistics(stylized) - target).norm(dim=1)
        before = (self.statistics(photos) - target).norm(dim=1)
        found = 0
        for i, picture in enumerate(stylized):
            own = self.net.features(_grey(picture[None]))
            found += int(self.net.from_features(own, self.grey).argmin()) == i
        return {
            "style": round(float((after / before).mean()), 3),
            "found": round(found / len(stylized), 3),
            "edges": round(float(edge_loss(stylized, photos)), 3),
        }


def _grey(images: Tensor) -> Tensor:
    return (images * GREY).sum(1, keepdim=True).expand(-1, 3, -1, -1)


def train_and_stylize(
    base: Base,
    image: Tensor,
    counterpart: Tensor,
    bank: ContentBank,
    encodings: Encodings,
    settings: TrainSettings,
    counts: list[int],
) -> dict[int, tuple[Tensor, float]]:
    """Stylizations (N, 3, H, W), and seconds of training, after each number of iterations."""
    trainer = StyleTrainer(base, image, counterpart, bank, settings)
    out, seconds = {}, 0.0
    for count in counts:
        started = time.perf_counter()
        while trainer.iteration < count:
            trainer.step()
        seconds += time.perf_counter() - started
        style = trainer.style("style")
        pictures = decode(base, encodings, Mix.of("style"), {"style": style})
        out[count] = (pictures, seconds)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--styles", type=Path, nargs="+", required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--lpips", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--guides", default="A,B,C,D")
    parser.add_argument("--looks", default="20", help="numbers of iterations, such as 8,12,20")
    parser.add_argument("--count", type=int, default=8, help="photos to stylize")
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE of a setting")
    args = parser.parse_args()
    torch.set_num_threads(1)
    counts = sorted(int(n) for n in args.looks.split(","))
    overrides = {k: json.loads(v) for k, v in (s.split("=", 1) for s in args.set)}
    settings = make_settings("fast", **{"iterations": counts[-1], **overrides})
    base = load_base(shipped_bases()["portraits64"])
    size = base.config.image_size
    files = find_images(args.photos)
    stride = max(1, len(files) // args.count)
    order = [*files[::stride][: args.count], *files]
    photos = torch.stack([load_square(p, size) for p in dict.fromkeys(order)])
    metrics = AlexNetMetrics(args.lpips, photos)
    bank = build_bank(base, settings)
    encodings = encode(base, photos[: args.count], encode_plan(None, settings, base.device))
    results: dict[str, Any] = {}
    for path in args.styles:
        image = load_square(path, size)[None]
        counterpart = photo_counterpart(base, image, settings, bank)
        rows = [photos[: args.count]]
        for name in args.guides.split(","):
            stored = args.out / f"{path.stem}-{name}.json"
            if not stored.is_file():
                trained = train_and_stylize(
                    with_guide(base, name, args.lpips), image, counterpart, bank, encodings,
                    settings, counts,
                )  # fmt: skip
                pictures = {str(n): p for n, (p, _) in trained.items()}
                save_tensors(stored.with_suffix(".safetensors"), pictures)
                figures = {
                    str(n): {**metrics.measure(p, image), "seconds": round(s, 1)}
                    for n, (p, s) in trained.items()
                }
                write_json(stored, figures)
            results[f"{path.stem} {name}"] = json.loads(stored.read_text())
            rows += read_rows(stored.with_suffix(".safetensors"))
        write_atomic(args.out / f"{path.stem}.png", sheet(image, counterpart, rows))
    print(json.dumps(results, indent=2))


def read_rows(path: Path) -> list[Tensor]:
    from safetensors.torch import load_file

    stored = load_file(path)
    return [stored[k] for k in sorted(stored, key=int)]


def sheet(image: Tensor, counterpart: Tensor, rows: list[Tensor]) -> bytes:
    """A PNG at twice the size; each row is the style image, its counterpart and the pictures."""
    lines = [torch.cat([*image, *counterpart, *row], dim=2) for row in rows]
    picture = torch.cat(lines, dim=1)
    return png_bytes(tensor_to_image(picture.repeat_interleave(2, 1).repeat_interleave(2, 2)))


if __name__ == "__main__":
    main()

"""Cost of low-rank styles: time of a step, and memory of many styles in one engine.

    python -m tests.benchmarks.adapters [--size ffhq256] [--rank 16] [--styles 64]

``plain`` is a forward pass of epsilon_A for one photo. ``merge`` is the time to merge a style into
the weights, once for each decode of a photo on a CPU. ``batched`` is a pass of four rows with four
different styles, and ``four plain`` one of four rows without. The memory is what the engine holds
beside the base and its encodings when every style has been used. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from factory.methods.osasis.base import OsasisBase
from factory.methods.osasis.method import OsasisMethod
from factory.registry import StyleVersion
from osasis.bundles.base import Base
from osasis.bundles.style import Style
from osasis.images.decoding import png_bytes
from osasis.mix import Mix
from osasis.networks.adapters import RowAdapters, merged_weights
from serving.engine import Engine, ImageTask
from tests.benchmarks.speed_inputs import random_base, random_styles
from tests.tiny import picture


def shortest(work: Callable[[], Any], repeat: int = 5) -> float:
    """The shortest time of ``repeat`` calls after a first one, in milliseconds."""
    times = []
    for _ in range(repeat + 1):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return round(1e3 * min(times[1:]), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="portraits64")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--styles", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    base = random_base(args.size)
    unet, side = base.diffae.unet, base.config.image_size
    four = [low_rank_style(base, args.rank).delta for _ in range(4)]
    x, z = torch.randn(4, 3, side, side), torch.randn(4, base.config.z_channels)
    t = torch.full((4,), 300)
    with torch.no_grad():
        rows = RowAdapters(unet, [[(d, 1.0)] for d in four])
        result: dict[str, Any] = {
            "plain_ms": shortest(lambda: unet(x[:1], t[:1], z[:1])),
            "merge_ms": shortest(lambda: merged_weights(unet, [(four[0], 1.0)])),
            "four_plain_ms": shortest(lambda: unet(x, t, z), 3),
            "batched_ms": shortest(lambda: rows(x, t, z), 3),
        }
    result |= memory_of_styles(base, args.styles, args.rank)
    print(json.dumps({**vars(args), **result}, indent=1))


def low_rank_style(base: Base, rank: int) -> Style:
    """A random style in float16, as low-rank styles are held."""
    (style,) = random_styles(base, 1, rank)
    return style.half()


def memory_of_styles(base: Base, count: int, rank: int) -> dict[str, Any]:
    """Decode a photo in each of ``count`` styles in one engine."""
    engine = Engine(OsasisBase(OsasisMethod(), base, Path()), styles_host=4_000_000_000)
    side = base.config.image_size
    photo = png_bytes(picture(1, (side, side)))
    steps = {"decode_steps": 2, "encode_steps": 2, "structure": 0.0}

    def run(name: str) -> None:
        mix, version = (
            Mix.of(name, **steps),
            StyleVersion(name, 1, name, "", "", "", (), 0, {}, "", Path()),
        )
        engine.submit(ImageTask(photo, mix, {name: version})).result(600)

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    before = peak()
    for i in range(count):
        style = low_rank_style(base, rank)
        engine.styles.host.put(f"style-{i}:1", style)
        run(f"style-{i}")
    assert len(engine.styles.host) == count
    return {
        "style_mb": round(style.nbytes / 1e6, 2),
        "styles_mb": round(engine.styles.host.bytes / 1e6, 1),
        "peak_growth_mb": round((peak() - before) / 1e6, 1),
    }


if __name__ == "__main__":
    main()

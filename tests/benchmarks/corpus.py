"""The corpus pipeline against the bare encode and decode loop, on the same machine in one run.

    python -m tests.benchmarks.corpus --folder ../shared/data/portraits/train --photos 64

Styles are random and have the size of trained ones. The bare loop keeps photos and pictures in
memory, and runs in as many processes as the pipeline has actors. Prints one JSON document: "ratio"
measures the pipeline from its first forward pass to its last, "with_start" from the call to its
return, which includes Ray's start in the first round. Each round is compared with the mean of the
bare loops before and after it. Run several rounds on an idle machine and compare the "median" of
the ratios, not absolute times.

With --store, each round also stylizes the same photos from an S3 server on this machine (moto) to
that server; "store_ratio" is the speed of that job divided by that of the job on folders.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def random_style(base, style_id: str, seed: int):  # type: ignore[no-untyped-def]
    """A random style of the size of a trained one."""
    import torch

    from osasis.bundles.style import Style
    from osasis.networks.spn import StructurePreservingNetwork
    from osasis.settings import make_settings

    generator = torch.Generator().manual_seed(seed)
    delta = {
        k: 1e-3 * torch.randn(p.shape, generator=generator)
        for k, p in base.diffae.unet.named_parameters()
    }
    z = torch.randn(2, base.config.z_channels, generator=generator)
    return Style(
        style_id, delta, StructurePreservingNetwork().state_dict(), z[:1], z[1:],
        make_settings("fast"), {"base": base.fingerprint},
    )  # fmt: skip


def bare(base_folder: Path, folders: list[Path], photos: list[Path], encodes: str, queue) -> None:  # type: ignore[no-untyped-def]
    """Encode ("once", or for "each" style) and decode photos; put the seconds in the queue."""
    import torch

    from osasis.bundles.base import load_base
    from osasis.bundles.style import load_style
    from osasis.encode import encode, encode_plan
    from osasis.images.tensors import load_square
    from osasis.mix import Mix
    from osasis.stylize import decode

    torch.set_num_threads(1)
    base = load_base(base_folder)
    styles = {f.name: load_style(f, base) for f in folders}
    batch = torch.stack([load_square(p, base.config.image_size) for p in photos])
    settings = next(iter(styles.values())).settings
    plan = encode_plan(None, settings, base.device)
    queue.put("ready")
    start = time.perf_counter()
    for part in batch.split(16):
        encodings = None
        for name, style in styles.items():
            if encodings is None or encodes == "each":
                encodings = encode(base, part, plan)
            decode(base, encodings, Mix.of(name), {name: style})
    queue.put(time.perf_counter() - start)


def bare_seconds(
    base: Path, folders: list[Path], photos: list[Path], workers: int, encodes: str
) -> float:
    """Wall seconds of the bare loop in ``workers`` processes, without loading."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [
        context.Process(target=bare, args=(base, folders, photos[w::workers], encodes, queue))
        for w in range(workers)
    ]
    for process in processes:
        process.start()
    found = [queue.get() for _ in range(2 * workers)]
    for process in processes:
        process.join()
    return max(f for f in found if f != "ready")


def seconds_of(result, workers: int) -> float:  # type: ignore[no-untyped-def]
    """Seconds from a job's first forward pass to its last, without Ray's start."""
    return float(result.model_seconds / max(result.model_share, 1e-9) / workers)


def store_with(photos: list[Path]) -> str:
    """The URI of a bucket with the photos below ``photos/``, on a server of this process.

    Called before Ray starts, whose workers find the server in the environment.
    """
    import fsspec

    from factory.core.stores import open_store
    from tests.s3_server import BUCKET, S3Server

    os.environ.update(S3Server().environment)
    fsspec.filesystem("s3").mkdir(BUCKET)
    for photo in photos:
        open_store(f"s3://{BUCKET}/photos").write(photo.name, photo.read_bytes())
    return f"s3://{BUCKET}"


def main() -> None:
    import numpy as np
    from PIL import Image

    from factory.core.home import Home
    from factory.registry import Registry
    from osasis.bundles.base import load_base
    from osasis.bundles.files import shipped_bases
    from osasis.bundles.style import save_style
    from pipelines import stylize

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=shipped_bases()["portraits64"])
    parser.add_argument("--photos", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="folder of photos (default: random photos)")
    parser.add_argument("--side", type=int, default=512, help="side of random photos, in pixels")
    parser.add_argument("--styles", default="1,8")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--store", action="store_true", help="compare with a job in an S3 store")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        home = Home(root / "home")
        home.bases.mkdir(parents=True)
        (home.bases / "base").symlink_to(args.base.resolve())
        base = load_base(home.bases / "base")
        counts = [int(n) for n in args.styles.split(",")]
        folders = []
        registry = Registry(home)
        for i in range(max(counts)):
            style = random_style(base, f"s{i}", i)
            size = base.config.image_size
            import torch

            blank = torch.zeros(3, size, size)
            save_style(root / f"s{i}", style, blank, blank)
            registry.register(
                f"s{i}", root / f"s{i}", fingerprint=f"s{i}", base=base.fingerprint, params={},
                history=[], metrics={}, tags={},
            )  # fmt: skip
            folders.append(root / f"s{i}")
        (root / "photos").mkdir()
        given = sorted(args.folder.iterdir())[: args.photos] if args.folder else []
        for path in given:
            shutil.copy(path, root / "photos" / path.name)
        for i in range(0 if given else args.photos):
            coarse = np.random.RandomState(i).randint(0, 256, (9, 9, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize(
                (args.side, args.side), Image.Resampling.BICUBIC
            )
            picture.save(root / "photos" / f"{i:04d}.jpg", quality=92)
        photos = sorted((root / "photos").iterdir())
        stored = store_with(photos) if args.store else ""
        for count in counts:
            before = bare_seconds(args.base, folders[:count], photos, args.workers, "once")
            for turn in range(args.rounds):
                result = stylize(
                    [f"s{i}" for i in range(count)], root / "photos", root / f"out-{count}-{turn}",
                    home=home, workers=args.workers, contact_sheet=False,
                )  # fmt: skip
                after = bare_seconds(args.base, folders[:count], photos, args.workers, "once")
                # The machine's speed changes, so average the loops before and after the pipeline.
                once, before = (before + after) / 2, after
                # A quarter of the photos suffices to measure encoding per style.
                few = photos[: len(photos) // 4]
                each = once
                if count > 1:
                    each = bare_seconds(args.base, folders[:count], few, args.workers, "each")
                    each *= len(photos) / len(few)
                streaming = seconds_of(result, args.workers)
                if stored:
                    in_store = stylize(
                        [f"s{i}" for i in range(count)], f"{stored}/photos",
                        f"{stored}/out-{count}-{turn}", home=home, workers=args.workers,
                        contact_sheet=False,
                    )  # fmt: skip
                    store_ratio = round(streaming / seconds_of(in_store, args.workers), 3)
                rows.append(
                    {
                        "styles": count,
                        "bare_images_a_second": round(result.images / once, 3),
                        "pipeline_images_a_second": round(result.images / streaming, 3),
                        "ratio": round(once / streaming, 3),
                        "with_start": round(once / result.seconds, 3),
                        "encode_once_gain": round(each / once, 2),
                        "model_share": round(result.model_share, 3),
                        **({"store_ratio": store_ratio} if stored else {}),
                    }
                )
    median = {
        count: statistics.median(r["ratio"] for r in rows if r["styles"] == count)
        for count in counts
    }
    shown = {"photos": args.photos, "workers": args.workers, "median": median, "rounds": rows}
    if args.store:
        shown["median_store_ratio"] = statistics.median(r["store_ratio"] for r in rows)
    print(json.dumps(shown, indent=2))


if __name__ == "__main__":
    main()

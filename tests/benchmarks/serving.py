"""Serving under load against the bare engine loop, on the same machine in one run.

    python -m tests.benchmarks.serving [--threads 1] [--parts load,cycle]

A client process sends new photos (512 px JPEG) with eight mixes to a real `style-factory serve` on
127.0.0.1, with a fixed number of concurrent requests. The bare loop passes the same photos and
mixes to `serving.engine.Engine` without Ray or HTTP, with the same concurrency. Styles are random
and have the size of trained ones. Prints one JSON document. Compare ratios, not absolute times, and
run on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tests.benchmarks.load import (
    STYLES,
    Plan,
    Steps,
    closed_loop,
    cycle_client,
    load_client,
    mix_of,
    photo,
    slider_client,
)

os.environ.setdefault("OMP_NUM_THREADS", "1")

# Defaults of `style-factory serve`.
BATCH, BATCH_WAIT = 8, 0.01

Run = Callable[..., Any]


def log(name: str, value: Any) -> Any:
    """Print an intermediate result to standard error, in case the run is aborted; return it."""
    print(name, json.dumps(value), file=sys.stderr, flush=True)
    return value


@contextmanager
def process(start: Callable[..., None] | None = None, *args: Any) -> Iterator[Run]:
    """A new process; yields a function that calls a function in the process."""
    with multiprocessing.get_context("spawn").Pool(1, start, args) as pool:
        yield lambda function, *given: pool.apply(function, given)


# The bare loop


_bare: dict[str, Any] = {}


def open_bare(home: str, threads: int) -> None:
    """Load an engine without Ray into this process, for ``bare_round``."""
    import torch

    from factory.core.home import Home
    from factory.methods import load_base
    from factory.registry import Registry
    from serving.engine import Engine

    torch.set_num_threads(threads)
    registry = Registry(Home(Path(home)))
    _bare["versions"] = {s: registry.resolve(s) for s in STYLES}
    base = load_base(registry.home.base_folder(None))
    _bare["engine"] = Engine(base, batch=BATCH, batch_wait=BATCH_WAIT)


def bare_round(plan: Plan, steps: Steps, seconds: float) -> list[dict[str, Any]]:
    """The work of ``load_client`` on the engine in this process."""
    from osasis.images.photo_options import PhotoOptions
    from osasis.mix import Mix
    from serving.config import Limits
    from serving.engine import ImageTask
    from serving.request_images import fitted_photo

    engine, current = _bare["engine"], _bare["versions"]

    def work(number: int) -> ImageTask:
        mix = Mix.parse(mix_of(number, steps))
        versions = {s.style: current[s.style] for s in mix.styles}
        size = engine.base.image_size
        found = fitted_photo(photo(number), "photo", size, PhotoOptions(), False, Limits())
        return ImageTask(found.squares[0], mix, versions)

    rows = []
    for at_once, numbers in plan:
        works = {n: work(n) for n in numbers}

        def ask(number: int, works: dict[int, ImageTask] = works) -> dict[str, float]:
            return {"batch": float(engine.submit(works[number]).result(timeout=170).batch)}

        rows.append(closed_loop(ask, numbers, at_once, seconds))
    return rows


# The server


@contextmanager
def server(home: Path, threads: int, *options: str) -> Iterator[tuple[str, int]]:
    """Start a server; yields its address and the process id of its engine."""
    from tests.serving.conftest import serving

    with tempfile.TemporaryDirectory() as folder:
        settings = ("--set", f"threads={threads}", "--set", "prewarm=0", *options)
        with serving(home, Path(folder), *settings) as running:
            yield running.url, engine_process(running.process.pid)


def engine_process(ancestor: int) -> int:
    """The process id of the engine among a server's descendants."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                names[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:  # the process has ended
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    for pid, name in names.items():
        parent = pid
        while parent > 1 and parent != ancestor:
            parent = parents.get(parent, 0)
        if parent == ancestor and name.startswith("ray::ServeReplica:style-factory:engine"):
            return pid
    raise SystemExit("the engine's process was not found")


def resident_mb(pid: int) -> float:
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in x)
    return round(int(line.split()[1]) / 1024, 1)


def metric(url: str, name: str) -> float:
    with urlopen(f"{url}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(x.split()[1] for x in lines if x.startswith(f"style_factory_{name} ")))


# Styles and load


def fill(home: Path, base_folder: Path, names: list[str]) -> int:
    """Register random styles, without MLflow runs; returns the bytes of one style in memory."""
    import torch

    from factory.core.home import Home
    from factory.registry import CHAMPION, KIND_TAG, Registry
    from osasis.bundles.base import load_base
    from osasis.bundles.style import save_style
    from tests.benchmarks.corpus import random_style

    base, place = load_base(base_folder), Home(home)
    client = Registry(place).client
    size = base.image_size
    blank = torch.zeros(3, size, size)
    tags = {"base": base.fingerprint}
    for i, name in enumerate(names):
        style = random_style(base, name, i)
        save_style(place.artifacts / name, style, blank, blank)
        client.create_registered_model(name, tags={KIND_TAG: "style"})
        source = (place.artifacts / name).as_uri()
        client.create_model_version(name, source=source, tags={**tags, "fingerprint": name})
        client.set_registered_model_alias(name, CHAMPION, "1")
    return style.nbytes


def plans(images: int, rounds: int) -> Plan:
    """Levels of concurrency with distinct photos: 32 in every round, then 8 and 1 once."""
    number, levels = 10_000, []
    for at_once, count in [*[(32, images)] * rounds, (8, images), (1, 3)]:
        levels.append((at_once, list(range(number, number + count))))
        number += count
    return levels


def measure_load(home: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Load, slider and cold style, with the shipped base."""
    from osasis.bundles.files import shipped_bases

    if not home.exists():
        fill(home, next(iter(shipped_bases().values())), STYLES)
    steps, warm = (args.encode_steps, args.decode_steps), [(4, list(range(8000, 8004)))]
    rows: dict[str, list[Any]] = {"bare": [], "served": []}
    with (
        process(open_bare, str(home), args.threads) as bare,
        process() as client,
        server(home, args.threads) as (url, _),
    ):
        bare(bare_round, warm, steps, args.seconds)  # warm-up: loads styles, chooses kernels
        client(load_client, url, warm, steps, args.seconds)
        # Alternate, because the machine's speed changes; the other side is idle meanwhile.
        for level in plans(args.images, args.rounds):
            rows["bare"] += log("bare", bare(bare_round, [level], steps, args.seconds))
            rows["served"] += log("served", client(load_client, url, [level], steps, args.seconds))
        slider = log("slider", client(slider_client, url, 3))
    seconds = {
        side: sum(r["images"] / r["images_a_second"] for r in results if r["at_once"] == 32)
        for side, results in rows.items()
    }
    return {**rows, "ratio_at_32": round(seconds["bare"] / seconds["served"], 3), "slider": slider}


def measure_cycle(home: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Many styles of a tiny base through one engine whose cache holds a twelfth of them."""
    from tests.factory.conftest import import_tiny
    from tests.tiny import write_sources

    write_sources(home.parent / "sources")
    result = import_tiny(home, home.parent / "sources")
    assert result.code == 0, result.err
    names = [f"t{i:03d}" for i in range(args.styles)]
    size = fill(home, home / "bases" / "tiny", names)
    log("filled", size)
    capacity = max(1, args.styles // 12)
    begun = time.perf_counter()
    budget = ("--set", f"styles_host={capacity * size}")
    with server(home, args.threads, *budget) as (url, engine):
        start = time.perf_counter() - begun
        before = resident_mb(engine)
        peak, done = [before], threading.Event()

        def watch() -> None:
            while not done.wait(0.2):
                peak.append(resident_mb(engine))

        watcher = threading.Thread(target=watch)
        watcher.start()
        with process() as client:
            rows = client(cycle_client, url, args.styles, 8)
        done.set()
        watcher.join()
        time.sleep(3)  # the engine reports its counters every second
        return {
            "styles": args.styles,
            "style_mb": round(size / 1e6, 2),
            "budget_styles": capacity,
            "server_start_seconds": round(start, 1),
            "resident_mb": {"before": before, "peak": max(peak), "after": resident_mb(engine)},
            "evictions": metric(url, "style_evictions_total"),
            "loaded_at_the_end": metric(url, "styles_loaded"),
            "bytes_at_the_end": metric(url, "styles_bytes"),
            "each_style_once": rows[0],
            "one_style": rows[1],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="threads of the engine")
    parser.add_argument("--images", type=int, default=40, help="images per round at concurrency 32")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--encode-steps", type=int, default=4, help="0: the preset's steps")
    parser.add_argument("--decode-steps", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60, help="time limit of a level")
    parser.add_argument("--styles", type=int, default=500, help="styles of the part cycle")
    parser.add_argument("--parts", default="load,cycle")
    parser.add_argument(
        "--home", type=Path, help="home of the part load; filled if it does not exist"
    )
    parser.add_argument("--fill", action="store_true", help="only fill --home")
    args = parser.parse_args()
    # On SIGTERM, unwind the context managers, which end the server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parts = set(args.parts.split(","))
    out: dict[str, Any] = {"threads": args.threads, "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as scratch:
        home = args.home or Path(scratch) / "home"
        if args.fill:
            from osasis.bundles.files import shipped_bases

            fill(home, next(iter(shipped_bases().values())), STYLES)
            return
        if "load" in parts:
            out |= measure_load(home, args)
        if "cycle" in parts:
            out["cycle"] = measure_cycle(Path(scratch) / "tiny" / "home", args)
    print(json.dumps(out, indent=2))


if __name__ == "__main__":
    main()

"""Serving under load against the bare engine loop, on the same machine in one run.

    python -m tests.benchmarks.serving [--threads 1] [--parts load,slider,cycle]

A client in a process of its own sends photos (512 px JPEG, every one new) through four mixes to
a real `style-factory serve` on 127.0.0.1, so many at once as are named; the bare loop gives the
same photos and mixes to `serving.engine.Engine` without Ray or HTTP, equally many at once. Styles
are random: they cost what trained ones cost. Prints one JSON document. Compare ratios, not
absolute times; on a machine that is busy with other things, not even those.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("OMP_NUM_THREADS", "1")

SIDE = 512
STYLES = [f"s{i}" for i in range(6)]
COLD = STYLES[4:]  # asked for by one part only
MIXES: list[list[str]] = [["s0"], ["s1"], ["s2"], ["s0", "s3"]]
# The engine's own settings are those of `style-factory serve`.
BATCH, BATCH_WAIT = 8, 0.01

Ask = Callable[[int], dict[str, float]]


def photo(seed: int, side: int = SIDE) -> bytes:
    """A smooth random JPEG."""
    import numpy as np
    from PIL import Image

    coarse = np.random.RandomState(seed).randint(0, 256, (9, 9, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    picture.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def mix_of(number: int, steps: tuple[int, int]) -> dict[str, Any]:
    mix: dict[str, Any] = {"styles": MIXES[number % len(MIXES)]}
    return {**mix, "encode_steps": steps[0], "decode_steps": steps[1]} if steps[0] else mix


def closed_loop(ask: Ask, numbers: list[int], at_once: int, seconds: float) -> dict[str, Any]:
    """Ask for all numbers, ``at_once`` at a time; none is begun after ``seconds``."""
    waiting, lock, answers, failures = iter(numbers), threading.Lock(), [], []
    start = time.perf_counter()

    def worker() -> None:
        while time.perf_counter() - start < seconds:
            with lock:
                number = next(waiting, None)
            if number is None:
                return
            begun = time.perf_counter()
            try:
                found = ask(number)
            except Exception as e:
                failures.append(repr(e))
                return
            answers.append({**found, "latency": time.perf_counter() - begun})

    threads = [threading.Thread(target=worker) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit(f"a request failed: {failures[0]}")
    wall = time.perf_counter() - start
    latencies = sorted(a["latency"] for a in answers)
    return {
        "at_once": at_once,
        "images": len(answers),
        "images_a_second": round(len(answers) / wall, 3),
        "p50_seconds": round(statistics.median(latencies), 3),
        "p99_seconds": round(latencies[min(len(latencies) - 1, int(0.99 * len(latencies)))], 3),
        # Every image tells the size of its batch, so a batch of n is told of n times.
        "mean_batch": round(len(answers) / sum(1 / a["batch"] for a in answers), 2),
    }


# The client


class Http:
    """A connection a thread, kept open."""

    def __init__(self, url: str) -> None:
        self.address, self.local = urlsplit(url).netloc, threading.local()

    def post(self, path: str, body: dict[str, Any]) -> tuple[dict[str, str], bytes]:
        if not hasattr(self.local, "connection"):
            self.local.connection = http.client.HTTPConnection(self.address, timeout=170)
        headers = {"Content-Type": "application/json", "Accept": "image/png, application/json"}
        self.local.connection.request("POST", path, json.dumps(body), headers)
        answer = self.local.connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {data[:300]!r}")
        return {k.lower(): v for k, v in answer.getheaders()}, data

    def stylize(self, mix: dict[str, Any], **photos: list[str]) -> dict[str, float]:
        """The answer's batch, and seconds of each part."""
        headers, data = self.post("/v1/stylize", {"mix": mix, **photos})
        assert data.startswith(b"\x89PNG")
        return {"batch": float(headers["x-batch-size"]), "load": float(headers["x-load-seconds"])}


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def load_client(url: str, plan: list[tuple[int, list[int]]], steps: tuple[int, int],
                seconds: float) -> list[dict[str, Any]]:  # fmt: skip
    client = Http(url)
    rows = []
    for at_once, numbers in plan:
        photos = {n: text(photo(n)) for n in numbers}
        rows.append(
            closed_loop(
                lambda n, photos=photos: client.stylize(mix_of(n, steps), images=[photos[n]]),
                numbers,
                at_once,
                seconds,
            )
        )
    return rows


def slider_client(url: str, tries: int) -> dict[str, Any]:
    """A first request, moves of its slider, and a style that no engine has loaded."""
    client = Http(url)

    def timed(mix: dict[str, Any], **photos: list[str]) -> tuple[float, dict[str, float]]:
        start = time.perf_counter()
        found = client.stylize(mix, **photos)
        return time.perf_counter() - start, found

    first, moved, cold, load = [], [], [], []
    timed({"styles": ["s0"]}, images=[text(photo(8999))])
    for i in range(tries):
        data = text(photo(9000 + i))
        first.append(timed({"styles": ["s0"]}, images=[data])[0])
        kept = json.loads(client.post("/v1/encodings", {"images": [data]})[1])
        key = kept["encodings"][0]["id"]
        moved += [timed({"styles": ["s0"], "strength": s}, encodings=[key])[0] for s in (0.4, 0.8)]
        if i < len(COLD):
            seconds, found = timed({"styles": [COLD[i]]}, encodings=[key])
            cold.append(seconds)
            load.append(found["load"])
    return {
        "first_seconds": round(statistics.median(first), 3),
        "moved_seconds": round(statistics.median(moved), 3),
        "moved_share_of_first": round(statistics.median(moved) / statistics.median(first), 3),
        "cold_style_seconds": round(statistics.median(cold), 3),
        "cold_style_load_seconds": round(statistics.median(load), 3),
    }


def cycle_client(url: str, styles: int, at_once: int) -> list[dict[str, Any]]:
    """Every style in turn over one kept photo, then one style over and over; the load of each
    part. Where the model costs little, what is left is the cost of HTTP and Serve."""
    client = Http(url)
    made = json.loads(client.post("/v1/encodings", {"images": [text(photo(1))]})[1])
    key = made["encodings"][0]["id"]
    client.stylize({"styles": ["t000"]}, encodings=[key])

    def ask(name: str) -> dict[str, float]:
        return client.stylize({"styles": [name]}, encodings=[key])

    each = closed_loop(lambda n: ask(f"t{n:03d}"), list(range(styles)), at_once, 150)
    same = closed_loop(lambda n: ask("t000"), list(range(styles)), at_once, 60)
    return [each, same]


def told(name: str, value: Any) -> Any:
    """The value, after telling it on standard error: a run that is cut short has said something."""
    print(name, json.dumps(value), file=sys.stderr, flush=True)
    return value


def in_process(function: Callable[..., Any], *args: Any) -> Any:
    """The result of a function in a new process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(function, args)


# The bare loop


def bare(home: str, base: str | None, threads: int, plan: list[tuple[int, list[int]]],
         steps: tuple[int, int], seconds: float) -> list[dict[str, Any]]:  # fmt: skip
    """What ``load_client`` asks for, of an engine in this process."""
    import torch

    from factory.home import Home
    from factory.registry import Registry
    from osasis.base import load_base
    from osasis.mix import Mix
    from serving.config import Limits
    from serving.engine import Engine, Work
    from serving.pictures import square_png

    torch.set_num_threads(threads)
    place = Home(Path(home))
    engine = Engine(load_base(place.base_folder(base)), batch=BATCH, batch_wait=BATCH_WAIT)
    registry = Registry(place)
    known = {s: registry.current(s) for s in STYLES}
    size = engine.base.config.image_size

    def work(number: int) -> Work:
        mix = Mix.from_dict(mix_of(number, steps))
        versions = {s.style: (known[s.style].reference, known[s.style].folder) for s in mix.styles}
        png = square_png(photo(number), "photo", size, "crop", Limits())
        return Work(png, mix.to_dict(), versions)

    def ask(item: Work) -> dict[str, float]:
        return {"batch": float(engine.submit(item).result(timeout=170).batch)}

    for number in range(len(MIXES)):  # styles loaded, kernels chosen
        ask(work(8000 + number))
    rows = []
    for at_once, numbers in plan:
        works = {n: work(n) for n in numbers}
        rows.append(closed_loop(lambda n, w=works: ask(w[n]), numbers, at_once, seconds))
    engine.close()
    return rows


# The server


@contextmanager
def server(home: Path, threads: int, *options: str) -> Iterator[tuple[str, int]]:
    """A server's address, and the process id of its one engine."""
    from tests.serving.conftest import serving

    with tempfile.TemporaryDirectory() as folder:
        settings = ("--set", f"threads={threads}", "--set", "prewarm=0", *options)
        with serving(home, Path(folder), *settings) as running:
            yield running.url, engine_process(running.process.pid)


def engine_process(ancestor: int) -> int:
    """The process of the engine below a server's."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                names[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:  # it has ended
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    for pid, name in names.items():
        above = pid
        while above > 1 and above != ancestor:
            above = parents.get(above, 0)
        if above == ancestor and name.startswith("ray::ServeReplica:style-factory:engine"):
            return pid
    raise SystemExit("the engine's process was not found")


def resident_mb(pid: int) -> float:
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in x)
    return round(int(line.split()[1]) / 1024, 1)


def metric(url: str, name: str) -> float:
    from urllib.request import urlopen

    with urlopen(f"{url}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(x.split()[1] for x in lines if x.startswith(f"style_factory_{name} ")))


# What is served


def fill(home: Path, base_folder: Path, names: list[str]) -> int:
    """Register random styles of a base; returns the bytes of one in memory."""
    import torch

    from factory.home import Home
    from factory.registry import Registry
    from osasis.base import load_base
    from osasis.style import save_style
    from serving.caches import style_bytes
    from tests.benchmarks.corpus import random_style

    base, registry = load_base(base_folder), Registry(Home(home))
    size = base.config.image_size
    blank = torch.zeros(3, size, size)
    with tempfile.TemporaryDirectory() as scratch:
        for i, name in enumerate(names):
            style = random_style(base, name, i)
            save_style(Path(scratch) / name, style, blank, blank)
            registry.register(
                name,
                Path(scratch) / name,
                fingerprint=name,
                base=base.fingerprint,
                params={},
                history=[],
                metrics={},
                tags={},
            )
    return style_bytes(style)


def measure_load(home: Path, args: argparse.Namespace, parts: set[str]) -> dict[str, Any]:
    """Load, slider and cold style, over the base that the package ships."""
    from osasis.base import shipped_bases

    fill(home, next(iter(shipped_bases().values())), STYLES)
    steps = (args.encode_steps, args.decode_steps)
    plan, number = [], 10_000
    for at_once, count in ((1, 6), (8, 24), (32, args.images)):
        plan.append((at_once, list(range(number, number + count))))
        number += count
    saturated = [plan[-1]]
    call = (str(home), None, args.threads)
    out: dict[str, Any] = {}
    if "load" in parts:
        out["bare"] = told("bare", in_process(bare, *call, plan, steps, args.seconds))
    with server(home, args.threads) as (url, _):
        if "load" in parts:
            warm = [(4, list(range(8000, 8004)))]
            in_process(load_client, url, warm, steps, args.seconds)
            served = in_process(load_client, url, plan, steps, args.seconds)
            out["served"] = told("served", served)
        if "slider" in parts:
            out["slider"] = told("slider", in_process(slider_client, url, 3))
    if "load" in parts:
        # Before and after the server, as machines slow down and speed up.
        again = in_process(bare, *call, saturated, steps, args.seconds)[0]
        out["bare_again"] = again
        both = (out["bare"][-1]["images_a_second"], again["images_a_second"])
        out["ratio_at_32"] = round(out["served"][-1]["images_a_second"] / statistics.mean(both), 3)
    return out


def measure_cycle(home: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Many styles of a tiny base through one engine that has room for few."""
    from tests.factory.conftest import import_tiny, write_sources

    write_sources(home.parent / "sources")
    ran = import_tiny(home, home.parent / "sources")
    assert ran.code == 0, ran.err
    names = [f"t{i:03d}" for i in range(args.styles)]
    size = fill(home, home / "bases" / "tiny", names)
    kept = max(1, args.styles // 12)
    begun = time.perf_counter()
    budget = ("--set", f"styles_host={kept * size}")
    with server(home, args.threads, *budget) as (url, engine):
        start = time.perf_counter() - begun
        before = resident_mb(engine)
        peak, done = [before], threading.Event()

        def watch() -> None:
            while not done.wait(0.2):
                peak.append(resident_mb(engine))

        watcher = threading.Thread(target=watch)
        watcher.start()
        rows = in_process(cycle_client, url, args.styles, 8)
        done.set()
        watcher.join()
        time.sleep(3)  # the engine tells its counters every second
        return {
            "styles": args.styles,
            "style_mb": round(size / 1e6, 2),
            "budget_styles": kept,
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
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    parser.add_argument("--images", type=int, default=64, help="with 32 at once")
    parser.add_argument("--encode-steps", type=int, default=4, help="0: as the preset has it")
    parser.add_argument("--decode-steps", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60, help="the most a level may take")
    parser.add_argument("--styles", type=int, default=500, help="cycled through one engine")
    parser.add_argument("--parts", default="load,slider,cycle")
    args = parser.parse_args()
    parts = set(args.parts.split(","))
    out: dict[str, Any] = {"threads": args.threads, "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as scratch:
        if parts & {"load", "slider"}:
            out |= measure_load(Path(scratch) / "home", args, parts)
        if "cycle" in parts:
            out["cycle"] = measure_cycle(Path(scratch) / "tiny" / "home", args)
    print(json.dumps(out, indent=2))


if __name__ == "__main__":
    main()

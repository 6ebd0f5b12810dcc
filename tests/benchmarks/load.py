"""Client of the serving benchmark: closed loops of requests, and their latencies.

Imports nothing of the project, so that the process has only a client's cost.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

SIDE = 512
STYLES = [f"s{i}" for i in range(8)]
COLD = STYLES[6:]  # requested only by slider_client
MIXES = [*([s] for s in STYLES[:6]), ["s0", "s3"], ["s1", "s2"]]
Ask = Callable[[int], dict[str, float]]
Steps = tuple[int, int]
# (concurrency, photo numbers) of each level.
Plan = list[tuple[int, list[int]]]


def photo(seed: int, side: int = SIDE) -> bytes:
    """A smooth random JPEG."""
    import numpy as np
    from PIL import Image

    coarse = np.random.RandomState(seed).randint(0, 256, (9, 9, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    picture.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def mix_of(number: int, steps: Steps) -> dict[str, Any]:
    mix: dict[str, Any] = {"styles": MIXES[number % len(MIXES)]}
    return {**mix, "encode_steps": steps[0], "decode_steps": steps[1]} if steps[0] else mix


def closed_loop(ask: Ask, numbers: list[int], at_once: int, seconds: float) -> dict[str, Any]:
    """Request all numbers with ``at_once`` threads; no request starts after ``seconds``."""
    pending, lock, answers, failures = iter(numbers), threading.Lock(), [], []
    start = time.perf_counter()

    def worker() -> None:
        while time.perf_counter() - start < seconds:
            with lock:
                number = next(pending, None)
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
        # Every image reports its batch's size, so a batch of n images is counted n times.
        "mean_batch": round(len(answers) / sum(1 / a["batch"] for a in answers), 2),
    }


class Http:
    """One persistent connection per thread."""

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
        """The answer's batch size, and the seconds to load styles.

        The image has the base's size, as in the bare loop.
        """
        headers, data = self.post("/v1/stylize", {"mix": mix, "size": "base", **photos})
        assert data.startswith(b"\x89PNG")
        return {"batch": float(headers["x-batch-size"]), "load": float(headers["x-load-seconds"])}


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def load_client(url: str, plan: Plan, steps: Steps, seconds: float) -> list[dict[str, Any]]:
    """Run every level of the plan over HTTP."""
    client = Http(url)
    rows = []
    for at_once, numbers in plan:
        photos = {n: base64_text(photo(n)) for n in numbers}

        def ask(number: int, photos: dict[int, str] = photos) -> dict[str, float]:
            return client.stylize(mix_of(number, steps), images=[photos[number]])

        rows.append(closed_loop(ask, numbers, at_once, seconds))
    return rows


def slider_client(url: str, tries: int) -> dict[str, Any]:
    """Latency of a first request, of slider moves on its photo, and of a style not in memory."""
    client = Http(url)

    def timed(mix: dict[str, Any], **photos: list[str]) -> tuple[float, dict[str, float]]:
        start = time.perf_counter()
        found = client.stylize(mix, **photos)
        return time.perf_counter() - start, found

    first, moved, cold, load = [], [], [], []
    timed({"styles": ["s0"]}, images=[base64_text(photo(8999))])
    for i in range(tries):
        data = base64_text(photo(9000 + i))
        first.append(timed({"styles": ["s0"]}, images=[data])[0])
        stored = json.loads(client.post("/v1/encodings", {"images": [data]})[1])
        key = stored["encodings"][0]["id"]
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
    """Request every style once for one stored photo, then one style as often.

    With a tiny model this measures the cost of HTTP and Ray Serve.
    """
    client = Http(url)
    stored = json.loads(client.post("/v1/encodings", {"images": [base64_text(photo(1))]})[1])
    key = stored["encodings"][0]["id"]
    client.stylize({"styles": ["t000"]}, encodings=[key])

    def ask(name: str) -> dict[str, float]:
        return client.stylize({"styles": [name]}, encodings=[key])

    each = closed_loop(lambda n: ask(f"t{n:03d}"), list(range(styles)), at_once, 150)
    same = closed_loop(lambda n: ask("t000"), list(range(styles)), at_once, 60)
    return [each, same]

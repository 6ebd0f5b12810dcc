"""Counters of a process, and their sum over all processes as Prometheus text."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from itertools import groupby

# By name with labels in Prometheus's notation: requests_total{route="/x"}.
Samples = dict[str, float]
BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
PREFIX = "style_factory_"

HELP = {
    "requests_total": "HTTP requests by route and status",
    "request_seconds": "Seconds from a request's arrival to its answer",
    "images_total": "Images answered",
    "rejected_total": "Requests refused because the queue was full",
    "in_flight": "Images admitted and not answered yet",
    "open_requests": "POST requests in progress",
    "engine_batches_total": "Batches computed",
    "engine_images_total": "Images computed",
    "engine_encoded_total": "Photos encoded",
    "encoding_hits_total": "Encodings found in the cache",
    "style_loads_total": "Styles loaded from their files",
    "styles_loaded": "Styles in memory",
    "styles_bytes": "Bytes of styles in memory",
    "encodings_bytes": "Bytes of encodings in memory",
}


class Counters:
    """Thread-safe counters and histograms."""

    def __init__(self) -> None:
        self._values: Samples = {}
        self._lock = threading.Lock()

    def add(self, name: str, amount: float = 1.0, **labels: object) -> None:
        with self._lock:
            key = name + _labels(labels)
            self._values[key] = self._values.get(key, 0.0) + amount

    def observe(self, name: str, seconds: float) -> None:
        for limit in (*BUCKETS, "+Inf"):
            if seconds <= float(limit):
                self.add(f"{name}_bucket", le=limit)
        self.add(f"{name}_sum", seconds)
        self.add(f"{name}_count")

    def samples(self) -> Samples:
        with self._lock:
            return dict(self._values)


def render(sources: Iterable[Mapping[str, float]]) -> str:
    """The sum of all processes' samples in Prometheus's text format."""
    total: Samples = {}
    for source in sources:
        for key, value in source.items():
            total[key] = total.get(key, 0.0) + value
    lines = []
    for family, keys in groupby(sorted(total, key=_sort_key), _family):
        kind = "counter" if family.endswith("_total") else "gauge"
        if family.endswith("_seconds"):
            kind = "histogram"
        lines.append(f"# HELP {PREFIX}{family} {HELP.get(family, family.replace('_', ' '))}")
        lines.append(f"# TYPE {PREFIX}{family} {kind}")
        lines += [f"{PREFIX}{key} {total[key]:g}" for key in keys]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, object]) -> str:
    if not labels:
        return ""
    pairs = (f'{k}="{str(v)[:80]}"' for k, v in sorted(labels.items()))
    return "{" + ",".join(pairs) + "}"


def _family(key: str) -> str:
    """The metric's name without labels and the suffix of a histogram's part."""
    return re.sub("_(bucket|sum|count)$", "", key.partition("{")[0])


def _sort_key(key: str) -> tuple[str, float]:
    """By name and labels; buckets by their upper bound."""
    name, _, labels = key.partition("{")
    le = labels.partition('le="')[2].partition('"')[0]
    return (name + ("" if le else labels), float(le) if le else 0.0)

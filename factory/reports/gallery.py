"""The report of a run: a self-contained HTML file with all images embedded."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from factory.core.html import render_report
from factory.reports.charts import chart, number, sparkline
from factory.reports.results import STATES
from osasis.storage import write_atomic

# Largest side of an embedded image, in pixels.
MAX_SIDE = 256


@dataclass(frozen=True)
class GalleryStyle:
    """One style of the run. Images are PNG bytes. stylized: in the order of ``Gallery.photos``."""

    id: str
    state: str  # one of STATES
    style_png: bytes
    stylized: tuple[bytes | None, ...]
    provenance: dict[str, object]
    version: str | None = None
    champion: bool = False
    counterpart_png: bytes | None = None
    losses: dict[str, list[float]] = field(default_factory=dict)  # name -> value per iteration
    metrics: dict[str, float] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)
    seconds: float | None = None
    reason: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gallery:
    """Content of a run's report. photos: (name, PNG bytes). summary: values shown at the top."""

    title: str
    created: str
    base: str
    photos: tuple[tuple[str, bytes], ...]
    styles: tuple[GalleryStyle, ...]
    summary: dict[str, object]


def write_gallery(path: Path, gallery: Gallery) -> None:
    """Write the report to ``path``, atomically."""
    # File names may contain bytes that are not UTF-8.
    write_atomic(path, render(gallery).encode("utf-8", "replace"))


def render(gallery: Gallery) -> str:
    """The report's HTML."""
    return render_report(
        "factory.reports",
        "gallery.html.j2",
        title=gallery.title,
        gallery=gallery,
        stats=[_stat(name, value) for name, value in gallery.summary.items()],
        chips=_state_chips(gallery.styles),
        filters=FILTERS,
    )


def _stat(name: str, value: object) -> tuple[str, str, bool]:
    """Name, text, and whether the value is shown as an alarm."""
    alarm = name.lower() == "failed" and value not in (0, "0", None)
    return name, plain_text(value), alarm


@lru_cache(maxsize=4096)
def thumbnail(png: bytes) -> bytes:
    """The image as WebP with sides of at most ``MAX_SIDE``, which keeps the report small."""
    with Image.open(io.BytesIO(png)) as image:
        small = image.convert("RGB")
    small.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=90, method=4)
    return buffer.getvalue()


def thumbnail_uri(png: bytes) -> str:
    """``thumbnail`` as a data URI."""
    return "data:image/webp;base64," + base64.b64encode(thumbnail(png)).decode("ascii")


def plain_text(value: object) -> str:
    """A value as text: numbers with four digits, yes or no, JSON for nested values."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"  # noqa: RUF001
    if isinstance(value, float):
        return number(value)
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def duration(seconds: float) -> str:
    """A duration as text: 4.2 s, 2 min 10 s, 1 h 05 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _state_chips(styles: Iterable[GalleryStyle]) -> list[tuple[str, str, int]]:
    """Choices of the state filter: (value, label, count). Empty if all styles have one state."""
    states = [s.state for s in styles]
    present = [s for s in STATES if s in states]
    if len(present) < 2:
        return []
    return [("", "all", len(states))] + [(s, s, states.count(s)) for s in present]


def _cells(style: GalleryStyle, gallery: Gallery) -> list[tuple[str, bytes | None]]:
    """Name and stylized image of each photo."""
    names = [name for name, _ in gallery.photos]
    return list(zip_longest(names, style.stylized[: len(names)]))


def _facts(style: GalleryStyle) -> str:
    facts = [f"version {style.version}"] if style.version is not None else []
    if style.seconds is not None:
        facts.append(duration(style.seconds))
    return " · ".join(facts)


def _loss_parts(losses: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """The parts of the loss that are not always zero."""
    return {k: v for k, v in losses.items() if k != "total" and any(v)}


FILTERS: dict[str, Callable[..., Any]] = {
    "thumbnail_uri": thumbnail_uri,
    "plain": plain_text,
    "number": number,
    "cells": _cells,
    "facts": _facts,
    "parts": _loss_parts,
    "chart": lambda values: Markup(chart(values)),
    "sparkline": lambda values: Markup(sparkline(values)),
}

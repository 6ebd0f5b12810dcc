"""The report of a run: one HTML file with every image inside it and nothing loaded from outside."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from importlib import resources
from itertools import pairwise, zip_longest
from pathlib import Path
from string import Template

from PIL import Image

from osasis.storage import write_atomic

# A curve with more values is drawn by the means of this many runs of neighbours.
MAX_POINTS = 400
STATES = ("registered", "skipped", "failed")
# Pixels a side of what the page holds of a picture.
MAX_SIDE = 256


@dataclass(frozen=True)
class GalleryStyle:
    """One style of the run. Images are PNG bytes; ``stylized`` follows ``Gallery.photos``."""

    id: str
    state: str  # one of STATES
    version: str | None
    champion: bool
    style_png: bytes
    counterpart_png: bytes | None
    stylized: tuple[bytes | None, ...]
    losses: dict[str, list[float]]  # name -> value per iteration
    metrics: dict[str, float]
    settings: dict[str, object]
    provenance: dict[str, object]
    seconds: float | None
    reason: str | None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gallery:
    """A run as its report shows it. ``photos``: (name, PNG bytes)."""

    title: str
    created: str
    base: str
    photos: tuple[tuple[str, bytes], ...]
    styles: tuple[GalleryStyle, ...]
    summary: dict[str, object]


def write_gallery(path: Path, gallery: Gallery) -> None:
    """Write the report to ``path``, atomically."""
    # File names may hold bytes that are no UTF-8; they must not cost the report.
    write_atomic(path, render(gallery).encode("utf-8", "replace"))


def render(gallery: Gallery) -> str:
    """The report's HTML."""
    template = resources.files("factory.reports").joinpath("templates/gallery.html")
    return Template(template.read_text(encoding="utf-8")).substitute(
        title=escape(gallery.title),
        created=escape(gallery.created),
        base=escape(gallery.base),
        summary="".join(_stat(k, v) for k, v in gallery.summary.items()),
        states=_state_chips(gallery.styles),
        matrix=_matrix(gallery),
        cards="\n".join(_card(i, style) for i, style in enumerate(gallery.styles)),
        columns=len(gallery.photos) + 1,
        empty="" if gallery.styles else '<p class="none">This run has no styles.</p>',
    )


def _stat(name: str, value: object) -> str:
    alarm = ' class="alarm"' if name.lower() == "failed" and value not in (0, "0", None) else ""
    return f"<div{alarm}><dt>{escape(name)}</dt><dd>{escape(_text(value))}</dd></div>"


def _image(png: bytes | None, alt: str) -> str:
    if not png:
        return '<span class="blank">no image</span>'
    data = base64.b64encode(thumbnail(png)).decode("ascii")
    return (
        f'<img alt="{escape(alt)}" loading="lazy" decoding="async" '
        f'src="data:image/webp;base64,{data}">'
    )


@lru_cache(maxsize=4096)
def thumbnail(png: bytes) -> bytes:
    """A picture as a small WebP: a page of hundreds of styles stays light."""
    with Image.open(io.BytesIO(png)) as image:
        small = image.convert("RGB")
    small.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=90, method=4)
    return buffer.getvalue()


def _figure(png: bytes | None, alt: str, caption: str) -> str:
    return f"<figure>{_image(png, alt)}<figcaption>{escape(caption)}</figcaption></figure>"


def _text(value: object) -> str:
    """A value as a reader wants it: short numbers, plain words, JSON for what is nested."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"  # noqa: RUF001
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _number(value: float) -> str:
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "-∞"}.get(value, "NaN")
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """4.2 s, 2 min 10 s, 1 h 05 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _key(style: GalleryStyle) -> str:
    """What the page's filter looks at."""
    words = " ".join([style.id, *style.tags]).lower()
    return f'data-id="{escape(words)}" data-state="{escape(style.state)}"'


def _state_chips(styles: Iterable[GalleryStyle]) -> str:
    states = [s.state for s in styles]
    present = [s for s in STATES if s in states]
    if len(present) < 2:
        return ""
    chips = [("", "all", len(states))] + [(s, s, states.count(s)) for s in present]
    return "".join(
        f'<label class="chip"><input type="radio" name="state" value="{escape(value)}"'
        f"{'' if value else ' checked'}><span>{escape(label)} <small>{n}</small></span></label>"
        for value, label, n in chips
    )


def _matrix(gallery: Gallery) -> str:
    if not (gallery.photos and gallery.styles):
        return ""
    names = [name for name, _ in gallery.photos]
    head = "".join(
        f'<th scope="col" title="{escape(name)}">{_image(png, f"Photo {name}")}'
        f'<span class="name">{escape(name)}</span></th>'
        for name, png in gallery.photos
    )
    rows = "\n".join(_row(i, style, names) for i, style in enumerate(gallery.styles))
    return (
        '<section aria-labelledby="matrix-title">'
        '<h2 id="matrix-title">The photos in every style</h2>'
        '<div class="matrix" tabindex="0" role="region" aria-labelledby="matrix-title"><table>'
        '<thead><tr><td class="corner"><span>Photos across,<br>styles down</span></td>'
        f"{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div></section>"
    )


def _row(index: int, style: GalleryStyle, names: Sequence[str]) -> str:
    head = (
        f'<th scope="row" title="{escape(style.id)}"><a href="#style-{index}">'
        f"{_image(style.style_png, f'Style {style.id}')}"
        f'<span class="name">{escape(style.id)}</span></a></th>'
    )
    if style.state == "failed" and not any(style.stylized):
        cells = f'<td colspan="{len(names)}" class="wide">{_remark(style)}</td>'
    else:
        pairs = zip_longest(names, style.stylized[: len(names)])
        cells = "".join(f"<td>{_image(png, f'{n} in style {style.id}')}</td>" for n, png in pairs)
    return f"<tr {_key(style)}>{head}{cells}</tr>"


def _remark(style: GalleryStyle) -> str:
    """Why the style failed, or what else the run has to say of it."""
    if style.state != "failed":
        return f'<p class="note">{escape(style.reason)}</p>' if style.reason else ""
    reason = style.reason or "no reason was recorded"
    return f'<p class="failure"><strong>Failed</strong> <span>{escape(reason)}</span></p>'


def _card(index: int, style: GalleryStyle) -> str:
    pills = [f'<span class="pill {escape(style.state)}">{escape(style.state)}</span>']
    if style.champion:
        pills.append('<span class="pill champion">champion</span>')
    facts = [f"version {style.version}"] if style.version is not None else []
    if style.seconds is not None:
        facts.append(duration(style.seconds))
    pictures = [_figure(style.style_png, f"Style image of {style.id}", "Style image")]
    if style.counterpart_png:
        alt = f"Photo counterpart of {style.id}"
        pictures.append(_figure(style.counterpart_png, alt, "Photo counterpart"))
    return "".join(
        (
            f'<article class="card" id="style-{index}" {_key(style)}>',
            f"<header><h3>{escape(style.id)}</h3><p>{''.join(pills)}"
            f'<span class="facts">{escape(" · ".join(facts))}</span></p></header>',
            f'<div class="pair">{"".join(pictures)}</div>',
            _remark(style),
            _losses(style.losses),
            _metrics(style.metrics),
            _details("Settings", style.settings),
            _details("Provenance", style.provenance),
            "</article>",
        )
    )


def _metrics(metrics: Mapping[str, float]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(k)}</th><td>{_number(v)}</td></tr>'
        for k, v in metrics.items()
    )
    return f'<table class="metrics"><caption>Metrics</caption>{rows}</table>' if rows else ""


def _details(title: str, values: Mapping[str, object]) -> str:
    rows = "".join(
        f"<div><dt>{escape(str(k))}</dt><dd>{escape(_text(v))}</dd></div>"
        for k, v in values.items()
    )
    return f"<details><summary>{title}</summary><dl>{rows}</dl></details>" if rows else ""


def _losses(losses: Mapping[str, Sequence[float]]) -> str:
    """The total as a chart; each part that is not zero throughout as a line of its own scale."""
    total = losses.get("total") or []
    parts = {k: v for k, v in losses.items() if k != "total" and any(v)}
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{_sparkline(values)}</td>'
        f"<td>{_number(values[0])} → {_number(values[-1])}</td></tr>"
        for name, values in parts.items()
    )
    table = f'<table class="parts"><caption>Parts of the loss</caption>{rows}</table>'
    return (_chart(total) if total else "") + (table if rows else "")


def thin(values: Sequence[float]) -> list[float]:
    """At most MAX_POINTS values: means of equal runs of neighbours."""
    if len(values) <= MAX_POINTS:
        return list(values)
    cuts = [i * len(values) // MAX_POINTS for i in range(MAX_POINTS + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]


def _path(values: Sequence[float], box: tuple[float, float, float, float], top: float) -> str:
    """Path data of values over [0, top] in box (left, top, right, bottom)."""
    left, up, right, down = box
    steps, span = max(len(values) - 1, 1), top or 1.0
    data, pen = [], "M"
    for i, v in enumerate(values):
        if not math.isfinite(v):
            pen = "M"  # A gap where the loss was no number.
            continue
        x, y = left + (right - left) * i / steps, down - (down - up) * v / span
        data.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    return "".join(data)


def _ticks(high: float) -> list[float]:
    """Round values from 0 to at least high, in four steps at most."""
    high = high if high > 1e-9 else 1.0
    power = 10.0 ** math.floor(math.log10(high))
    step = next(s * power for s in (0.2, 0.25, 0.5, 1, 2, 5, 10) if 4 * s * power >= high)
    return [step * i for i in range(math.ceil(high / step - 1e-9) + 1)]


def _chart(values: Sequence[float]) -> str:
    drawn = thin(values)
    ticks = _ticks(max((v for v in drawn if math.isfinite(v)), default=1.0))
    left, up, right, down = box = (34.0, 8.0, 334.0, 112.0)
    curve = _path(drawn, box, ticks[-1])
    grid = ""
    for tick in ticks:
        y = f"{down - (down - up) * tick / ticks[-1]:.1f}"
        grid += f'<line x1="{left:.0f}" x2="{right:.0f}" y1="{y}" y2="{y}" />'
        grid += f'<text x="{left - 6:.0f}" y="{y}" dy=".32em" class="end">{tick:g}</text>'
    area = ""
    if all(map(math.isfinite, drawn)):  # No area under a curve with gaps.
        area = f'<path class="area" d="{curve}L{right:.1f} {down:.1f}L{left:.1f} {down:.1f}Z" />'
    first, last = _number(values[0]), _number(values[-1])
    label = f"Total loss: {first} at the first and {last} at the last of {len(values)} iterations"
    return (
        '<figure class="chart"><figcaption>Total loss '
        f"<span>{first} → {last}</span></figcaption>"
        f'<svg viewBox="0 0 342 130" role="img" aria-label="{label}">{grid}{area}'
        f'<path class="curve" d="{curve}" />'
        f'<text x="{left:.0f}" y="127">1</text>'
        f'<text x="{right:.0f}" y="127" class="end">{len(values)} iterations</text></svg></figure>'
    )


def _sparkline(values: Sequence[float]) -> str:
    drawn = thin(values)
    top = max((v for v in drawn if math.isfinite(v)), default=1.0)
    path = f'<path d="{_path(drawn, (1.0, 2.0, 99.0, 18.0), top)}" />'
    return f'<svg viewBox="0 0 100 20" preserveAspectRatio="none" aria-hidden="true">{path}</svg>'

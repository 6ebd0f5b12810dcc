"""Loss curves as SVG: a chart with axes, and sparklines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

# A curve with more values is drawn by the means of this many runs of neighbours.
MAX_POINTS = 400


def number(value: float) -> str:
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "-∞"}.get(value, "NaN")
    return f"{value:.4g}"


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


def chart(values: Sequence[float]) -> str:
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
    first, last = number(values[0]), number(values[-1])
    label = f"Total loss: {first} at the first and {last} at the last of {len(values)} iterations"
    return (
        f'<svg viewBox="0 0 342 130" role="img" aria-label="{label}">{grid}{area}'
        f'<path class="curve" d="{curve}" />'
        f'<text x="{left:.0f}" y="127">1</text>'
        f'<text x="{right:.0f}" y="127" class="end">{len(values)} iterations</text></svg>'
    )


def sparkline(values: Sequence[float]) -> str:
    drawn = thin(values)
    top = max((v for v in drawn if math.isfinite(v)), default=1.0)
    path = f'<path d="{_path(drawn, (1.0, 2.0, 99.0, 18.0), top)}" />'
    return f'<svg viewBox="0 0 100 20" preserveAspectRatio="none" aria-hidden="true">{path}</svg>'

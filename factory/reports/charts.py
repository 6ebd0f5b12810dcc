"""Loss curves as SVG: charts with axes, and sparklines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

# Points of a drawn curve; longer curves are averaged down to this many.
MAX_POINTS = 400


def number(value: float) -> str:
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "-∞"}.get(value, "NaN")
    return f"{value:.4g}"


def downsample(values: Sequence[float]) -> list[float]:
    """At most MAX_POINTS values: the means of equal intervals."""
    if len(values) <= MAX_POINTS:
        return list(values)
    cuts = [i * len(values) // MAX_POINTS for i in range(MAX_POINTS + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]


def _path(values: Sequence[float], box: tuple[float, float, float, float], high: float) -> str:
    """SVG path data of values in [0, high], drawn in box (left, top, right, bottom)."""
    left, top, right, bottom = box
    steps, high = max(len(values) - 1, 1), high or 1.0
    data, command = [], "M"
    for i, v in enumerate(values):
        if not math.isfinite(v):
            command = "M"  # Leave a gap where the loss is not finite.
            continue
        x, y = left + (right - left) * i / steps, bottom - (bottom - top) * v / high
        data.append(f"{command}{x:.1f} {y:.1f}")
        command = "L"
    return "".join(data)


def _ticks(high: float) -> list[float]:
    """Round tick values from 0 to at least high, in at most four steps."""
    high = high if high > 1e-9 else 1.0
    power = 10.0 ** math.floor(math.log10(high))
    step = next(s * power for s in (0.2, 0.25, 0.5, 1, 2, 5, 10) if 4 * s * power >= high)
    return [step * i for i in range(math.ceil(high / step - 1e-9) + 1)]


def chart(values: Sequence[float]) -> str:
    drawn = downsample(values)
    ticks = _ticks(max((v for v in drawn if math.isfinite(v)), default=1.0))
    left, top, right, bottom = box = (34.0, 8.0, 334.0, 112.0)
    curve = _path(drawn, box, ticks[-1])
    grid = ""
    for tick in ticks:
        y = f"{bottom - (bottom - top) * tick / ticks[-1]:.1f}"
        grid += f'<line x1="{left:.0f}" x2="{right:.0f}" y1="{y}" y2="{y}" />'
        grid += f'<text x="{left - 6:.0f}" y="{y}" dy=".32em" class="end">{tick:g}</text>'
    area = ""
    if all(map(math.isfinite, drawn)):  # No area under a curve with gaps.
        area = (
            f'<path class="area" d="{curve}L{right:.1f} {bottom:.1f}L{left:.1f} {bottom:.1f}Z" />'
        )
    first, last = number(values[0]), number(values[-1])
    label = f"Total loss: {first} at the first and {last} at the last of {len(values)} iterations"
    return (
        f'<svg viewBox="0 0 342 130" role="img" aria-label="{label}">{grid}{area}'
        f'<path class="curve" d="{curve}" />'
        f'<text x="{left:.0f}" y="127">1</text>'
        f'<text x="{right:.0f}" y="127" class="end">{len(values)} iterations</text></svg>'
    )


def sparkline(values: Sequence[float]) -> str:
    drawn = downsample(values)
    high = max((v for v in drawn if math.isfinite(v)), default=1.0)
    path = f'<path d="{_path(drawn, (1.0, 2.0, 99.0, 18.0), high)}" />'
    return f'<svg viewBox="0 0 100 20" preserveAspectRatio="none" aria-hidden="true">{path}</svg>'

"""Estimates of metrics with bootstrap confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from osasis.evaluation.metric import Metric
from osasis.seeds import derived_seed

LEVEL = 0.95
SAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A metric of a set of pairs. value, low, high: None where not defined.

    low, high: confidence interval at LEVEL. count: pairs with a value. missing: pairs without one,
    such as photos without a face.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int
    missing: int

    def to_dict(self) -> dict[str, Any]:
        return vars(self).copy()


def estimate(
    metric: Metric,
    photos: Sequence[Any],
    rows: Sequence[Sequence[float] | None],
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Estimate:
    """The metric of rows, and its percentile interval from resampled photos (Efron, 1979).

    photos: the photo of each row. Photos are resampled rather than rows, since the rows of a photo
    in several styles depend on each other. The result does not depend on the rows' order.
    """
    known = sorted(
        ((str(p), list(r)) for p, r in zip(photos, rows, strict=True) if r is not None),
        key=lambda item: (item[0], item[1]),
    )
    missing = len(rows) - len(known)
    if not known:
        return Estimate(None, None, None, 0, missing)
    values = np.array([r for _, r in known], dtype=np.float64)
    value = metric.reduce(values)
    low = high = None
    groups = _groups([p for p, _ in known])
    if metric.interval and len(groups) > 1:
        low, high = _interval(metric, values, groups, samples, seed)
    return Estimate(_finite(value), low, high, len(known), missing)


def _groups(photos: Sequence[str]) -> list[np.ndarray]:
    """Indices of the rows of each photo; photos are sorted."""
    found: dict[str, list[int]] = {}
    for i, photo in enumerate(photos):
        found.setdefault(photo, []).append(i)
    return [np.array(index) for index in found.values()]


def _interval(
    metric: Metric, values: np.ndarray, groups: list[np.ndarray], samples: int, seed: int
) -> tuple[float | None, float | None]:
    draw = np.random.default_rng(derived_seed(seed, "bootstrap"))
    results = []
    for _ in range(samples):
        chosen = draw.integers(len(groups), size=len(groups))
        results.append(metric.reduce(values[np.concatenate([groups[i] for i in chosen])]))
    # A resample can lack what the metric needs, such as dark faces.
    defined = [r for r in results if math.isfinite(r)]
    if len(defined) < samples / 2:
        return None, None
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(defined, [tail, 100 - tail])
    return float(low), float(high)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

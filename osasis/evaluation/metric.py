"""What a metric is, and what it measures: a photo, its stylization, and the style's images."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

T = TypeVar("T")


class Picture:
    """An image (3, H, W) in [-1, 1], and what metrics computed from it.

    A photo is compared with many stylizations; ``once`` computes its features only once.
    """

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels
        self._known: dict[Hashable, Any] = {}

    @property
    def batch(self) -> Tensor:
        """The image as a batch, (1, 3, H, W)."""
        return self.pixels[None]

    def once(self, key: Hashable, compute: Callable[[Picture], T]) -> T:
        """``compute(self)``, or what an earlier call with this key returned."""
        if key not in self._known:
            self._known[key] = compute(self)
        found: T = self._known[key]
        return found


@dataclass(frozen=True)
class Pair:
    """A photo and its stylization, with the style's image and photo counterpart.

    The pictures have equal sizes. counterpart: None for styles without one.
    """

    photo: Picture
    stylized: Picture
    style_image: Picture
    counterpart: Picture | None


def mean_value(rows: np.ndarray) -> float:
    """Mean of a per-image metric over rows (N, 1)."""
    return float(rows[:, 0].mean())


@dataclass(frozen=True)
class Metric:
    """A metric of stylizations.

    source: paper and equation. backbone: the network or the definition that it computes with;
    values of different backbones are not comparable. measure: the numbers of one pair; one value
    for a per-image metric, features for a set metric; None where the pair has no value. reduce: the
    metric of rows (N, K) of ``measure``, which come in any order; NaN where it is not defined.
    interval: whether resampling the rows gives a confidence interval.
    """

    name: str
    lower_better: bool
    backbone: str
    source: str
    measure: Callable[[Pair], Sequence[float] | None]
    reduce: Callable[[np.ndarray], float] = mean_value
    interval: bool = True

    def of(self, pairs: Sequence[Pair]) -> float:
        """The metric of these pairs; NaN where no pair has a value."""
        rows = [row for pair in pairs if (row := self.measure(pair)) is not None]
        return self.reduce(np.array(rows, dtype=np.float64)) if rows else math.nan

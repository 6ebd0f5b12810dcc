"""Bootstrap intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from osasis.evaluation.intervals import estimate
from osasis.evaluation.metric import Metric


def mean_metric() -> Metric:
    return Metric("m", True, "", "", lambda pair: None)


def test_the_interval_of_a_mean_is_about_1_96_standard_errors() -> None:
    values = np.random.default_rng(0).normal(5, 2, 400)
    found = estimate(mean_metric(), range(400), [(v,) for v in values])
    error = values.std(ddof=1) / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)
    assert (found.count, found.missing) == (400, 0)


def test_photos_are_resampled_and_not_their_rows() -> None:
    values = np.random.default_rng(0).normal(0, 1, 50)
    once = estimate(mean_metric(), range(50), [(v,) for v in values])
    # The same photo in four styles tells nothing more about photos.
    many = estimate(mean_metric(), [i for i in range(50) for _ in range(4)],
                    [(v,) for v in values for _ in range(4)])  # fmt: skip
    assert many.low == pytest.approx(once.low, abs=0.1)
    assert many.high == pytest.approx(once.high, abs=0.1)


def test_the_order_of_rows_does_not_matter_and_the_seed_does() -> None:
    photos, rows = list("abcdef"), [(float(i),) for i in range(6)]
    found = estimate(mean_metric(), photos, rows)
    assert estimate(mean_metric(), photos[::-1], rows[::-1]) == found
    assert estimate(mean_metric(), photos, rows, samples=50, seed=1) != estimate(
        mean_metric(), photos, rows, samples=50, seed=2
    )


def test_pairs_without_a_value_are_counted() -> None:
    found = estimate(mean_metric(), "abc", [(1.0,), None, (3.0,)])
    assert (found.value, found.count, found.missing) == (2.0, 2, 1)
    none = estimate(mean_metric(), "ab", [None, None])
    assert (none.value, none.low, none.count, none.missing) == (None, None, 0, 2)


def test_an_undefined_metric_has_no_value() -> None:
    undefined = Metric("m", True, "", "", lambda pair: None, lambda rows: math.nan)
    found = estimate(undefined, "ab", [(1.0,), (2.0,)])
    assert (found.value, found.low, found.high, found.count) == (None, None, None, 2)

"""The quality gate: conditions on a style's metrics that decide who becomes champion."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from osasis.errors import did_you_mean
from osasis.metrics import METRICS
from osasis.validation import InvalidInputError, Problem

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
CONDITION = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*(\S+)\s*")


@dataclass(frozen=True)
class Condition:
    """One condition, such as style_distance <= 0.8."""

    metric: str
    sign: str
    limit: float

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.limit:g}"

    def failure(self, metrics: Mapping[str, float]) -> str | None:
        """Why metrics do not meet the condition; None where they do."""
        value = metrics.get(self.metric)
        if value is None:
            return f"{self.metric} was not measured"
        if math.isfinite(value) and OPERATORS[self.sign](value, self.limit):
            return None
        return f"{self.metric} is {value:.3g}, not {self.sign} {self.limit:g}"


def parse_gate(conditions: Iterable[str]) -> tuple[Condition, ...]:
    """Conditions from text such as ``style_distance<=0.8``; commas separate several.

    Raises InvalidInputError naming each text that is no condition.
    """
    parsed = [_parse(part) for c in conditions for part in c.split(",") if part.strip()]
    if problems := [p for p in parsed if isinstance(p, Problem)]:
        raise InvalidInputError("gate", problems)
    return tuple(c for c in parsed if isinstance(c, Condition))


def _parse(text: str) -> Condition | Problem:
    found = CONDITION.fullmatch(text)
    if found is None:
        return Problem("gate", text, f"gate {text!r} is no condition", "METRIC<=NUMBER")
    metric, sign, limit = found.groups()
    if metric not in METRICS:
        near = did_you_mean(metric, METRICS)
        message = f"gate {text!r} names an unknown metric {metric!r}{near}"
        return Problem("gate", text, message, f"one of {', '.join(METRICS)}")
    try:
        number = float(limit)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        return Problem("gate", text, f"gate {text!r} has the limit {limit!r}", "a number")
    return Condition(metric, sign, number)


def gate_failures(gate: Iterable[Condition], metrics: Mapping[str, float]) -> tuple[str, ...]:
    """What keeps a style with these metrics from becoming champion; nothing where all is met."""
    return tuple(f for c in gate if (f := c.failure(metrics)) is not None)

"""The quality gate: conditions on a style's metrics that decide whether it becomes champion."""

from __future__ import annotations

import contextlib
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from factory.methods import all_metrics
from osasis.evaluation.names import METRIC_NAMES, PREFIX
from osasis.validation import InputModel, InvalidInputError, Problem, shortened

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
CONDITION = r"\s*([\w.]+)\s*(<=|>=|<|>)\s*(\S+)\s*"
# Metrics of the preview photos, and those of `style-factory evaluate`.
GATE_METRICS = (*all_metrics(), *(PREFIX + name for name in METRIC_NAMES))


class Condition(InputModel):
    """One condition, such as ``style_distance<=0.8``."""

    subject: ClassVar[str] = "gate"

    metric: Literal[GATE_METRICS] = Field(  # type: ignore[valid-type]
        description="metric of the preview photos, or of an evaluation"
    )
    sign: Literal["<=", ">=", "<", ">"] = Field(description="relation of the metric to the limit")
    limit: float = Field(description="finite bound of the metric")

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.limit:g}"

    def failure(self, metrics: Mapping[str, float]) -> str | None:
        """Why metrics fail the condition; None where they meet it."""
        value = metrics.get(self.metric)
        if value is None:
            evaluated = " (`style-factory evaluate` does)" * self.metric.startswith(PREFIX)
            return f"{self.metric} was not measured{evaluated}"
        if math.isfinite(value) and OPERATORS[self.sign](value, self.limit):
            return None
        return f"{self.metric} is {value:.3g}, not {self.sign} {self.limit:g}"


def parse_gate(texts: Iterable[Any]) -> tuple[Condition, ...]:
    """Parse texts of comma-separated conditions such as ``style_distance<=0.8``.

    Raises InvalidInputError with the problems of each text in field ``gate[INDEX]``.
    """
    return _GateInput.parse({"gate": list(texts)}).gate


def _parse_texts(value: Any) -> tuple[Condition, ...]:
    """The conditions of a field ``gate``; a single text stands for a list of one text."""
    texts = [value] if isinstance(value, str) else value
    conditions, problems = [], []
    if not isinstance(texts, (list, tuple)):
        allowed = "a list of conditions such as style_distance<=0.8"
        problems, texts = [Problem("", value, f"gate is {shortened(value)}", allowed)], []
    for index, text in enumerate(texts):
        if not isinstance(text, (str, Condition)):
            allowed = "a condition such as style_distance<=0.8"
            field = f"[{index}]"
            problems.append(Problem(field, text, f"{field} is {shortened(text)}", allowed, "text"))
            continue
        for part in filter(str.strip, str(text).split(",")):
            try:
                conditions.append(_parse_condition(part))
            except InvalidInputError as e:
                problems += [
                    Problem(
                        p.field, p.value, f"condition {part!r}: {p.message}", p.allowed
                    ).with_prefix(f"[{index}]")
                    for p in e.problems
                ]
    if problems:
        facts = {"text": "; ".join(map(str, problems)), "problems": problems}
        raise PydanticCustomError("problems", "{text}", facts)
    return tuple(conditions)


def _parse_condition(text: str) -> Condition:
    found = re.fullmatch(CONDITION, text)
    if found is None:
        problem = Problem("", text, "it cannot be parsed", "METRIC<=NUMBER, or with <, >= or >")
        raise InvalidInputError("gate", [problem])
    metric, sign, limit = found.groups()
    number: float | str = limit
    with contextlib.suppress(ValueError):  # the model reports a limit that is not a number
        number = float(limit)
    return Condition.parse({"metric": metric, "sign": sign, "limit": number})


# Type of a field ``gate`` of an input model; its input is a list of texts.
Gate = Annotated[
    tuple[Condition, ...],
    BeforeValidator(_parse_texts),
    WithJsonSchema({"type": "array", "items": {"type": "string", "pattern": f"^{CONDITION}$"}}),
]


class _GateInput(InputModel):
    subject: ClassVar[str] = "gate"

    gate: Gate


def gate_failures(gate: Iterable[Condition], metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Why metrics fail the gate; empty where a style with these metrics becomes champion."""
    return tuple(f for c in gate if (f := c.failure(metrics)) is not None)

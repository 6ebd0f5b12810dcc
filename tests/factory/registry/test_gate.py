"""The quality gate: evaluation of its conditions, and mistakes in them."""

from __future__ import annotations

import math

import pytest

from factory.registry.gate import Condition, gate_failures, parse_gate
from osasis.validation import InvalidInputError


def test_conditions_are_read_from_text() -> None:
    assert parse_gate(["style_distance<=0.8, edges > 1e-2", " lpips>=0 ", ""]) == (
        Condition(metric="style_distance", sign="<=", limit=0.8),
        Condition(metric="edges", sign=">", limit=0.01),
        Condition(metric="lpips", sign=">=", limit=0.0),
    )
    assert str(parse_gate(["edges >0.50"])[0]) == "edges>0.5"
    assert parse_gate([]) == ()


@pytest.mark.parametrize(
    ("sign", "met"),
    [("<=", (0.4, 0.5)), ("<", (0.4,)), (">=", (0.5, 0.6)), (">", (0.6,))],
)
def test_signs(sign: str, met: tuple[float, ...]) -> None:
    condition = Condition.parse({"metric": "lpips", "sign": sign, "limit": 0.5})
    held = [v for v in (0.4, 0.5, 0.6) if condition.failure({"lpips": v}) is None]
    assert tuple(held) == met


def test_failures_name_metric_and_limit() -> None:
    gate = parse_gate(["style_distance<=0.8,direction>=0.3,edges>0.1"])
    assert gate_failures(gate, {"style_distance": 0.8, "direction": 0.3, "edges": 0.2}) == ()
    assert gate_failures(gate, {"style_distance": 0.91234, "direction": 0.3}) == (
        "style_distance is 0.912, not <= 0.8",
        "edges was not measured",
    )


def test_metrics_of_an_evaluation_are_conditions_too() -> None:
    gate = parse_gate(["evaluate.identity<=0.35, style_distance<=0.8"])
    assert gate_failures(gate, {"evaluate.identity": 0.3, "style_distance": 0.5}) == ()
    assert gate_failures(gate, {"style_distance": 0.5}) == (
        "evaluate.identity was not measured (`style-factory evaluate` does)",
    )
    with pytest.raises(InvalidInputError):
        parse_gate(["evaluate.identiti<=0.35"])


def test_non_finite_metrics_meet_no_condition() -> None:
    for sign in ("<=", ">=", "<", ">"):
        for value in (math.nan, math.inf, -math.inf):
            assert (
                Condition.parse({"metric": "lpips", "sign": sign, "limit": 0.5}).failure(
                    {"lpips": value}
                )
                is not None
            )


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("lpips=0.5", "gate[1]", "lpips=0.5"),
        ("lpips", "gate[1]", "lpips"),
        ("lpip<1", "gate[1].metric", "lpip"),
        ("lpips<one", "gate[1].limit", "one"),
        ("lpips<inf", "gate[1].limit", math.inf),
    ],
)
def test_problems_name_field_and_value_and_what_is_allowed(
    text: str, field: str, value: object
) -> None:
    with pytest.raises(InvalidInputError) as error:
        parse_gate(["edges>0", text])
    (problem,) = error.value.problems
    assert (problem.field, problem.value) == (field, value)
    assert problem.allowed
    assert text in problem.message


def test_all_faulty_conditions_are_reported() -> None:
    with pytest.raises(InvalidInputError) as error:
        parse_gate(["lpip<1, lpips<nan", "edges>0", "edge>0"])
    fields = [p.field for p in error.value.problems]
    assert fields == ["gate[0].metric", "gate[0].limit", "gate[2].metric"]
    assert "style_distance" in error.value.problems[0].allowed

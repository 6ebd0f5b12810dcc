"""The quality gate: what its conditions say of metrics, and mistakes in them."""

from __future__ import annotations

import math

import pytest

from factory.registry.gate import Condition, gate_failures, parse_gate
from osasis.errors import UserError


def test_conditions_are_read_from_text() -> None:
    assert parse_gate(["style_distance<=0.8, edges > 1e-2", " lpips>=0 ", ""]) == (
        Condition("style_distance", "<=", 0.8),
        Condition("edges", ">", 0.01),
        Condition("lpips", ">=", 0.0),
    )
    assert str(parse_gate(["edges >0.50"])[0]) == "edges>0.5"
    assert parse_gate([]) == ()


@pytest.mark.parametrize(
    ("sign", "met"),
    [("<=", (0.4, 0.5)), ("<", (0.4,)), (">=", (0.5, 0.6)), (">", (0.6,))],
)
def test_signs_mean_what_they_say(sign: str, met: tuple[float, ...]) -> None:
    condition = Condition("lpips", sign, 0.5)
    held = [v for v in (0.4, 0.5, 0.6) if condition.failure({"lpips": v}) is None]
    assert tuple(held) == met


def test_every_failure_is_told_with_its_numbers() -> None:
    gate = parse_gate(["style_distance<=0.8,direction>=0.3,edges>0.1"])
    assert gate_failures(gate, {"style_distance": 0.8, "direction": 0.3, "edges": 0.2}) == ()
    assert gate_failures(gate, {"style_distance": 0.91234, "direction": 0.3}) == (
        "style_distance is 0.912, not <= 0.8",
        "edges was not measured",
    )


def test_what_is_no_number_meets_no_condition() -> None:
    for sign in ("<=", ">=", "<", ">"):
        for value in (math.nan, math.inf, -math.inf):
            assert Condition("lpips", sign, 0.5).failure({"lpips": value}) is not None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lpips=0.5", "gate 'lpips=0.5' is no condition; it must be METRIC<=NUMBER"),
        ("lpips", "gate 'lpips' is no condition"),
        ("lpip<1", "names an unknown metric 'lpip' (nearest: lpips); it must be one of style_dist"),
        ("lpips<one", "has the limit 'one'; it must be a number"),
        ("lpips<nan", "has the limit 'nan'; it must be a number"),
        ("lpips<inf", "has the limit 'inf'; it must be a number"),
    ],
)
def test_mistakes_name_the_condition(text: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        parse_gate(["edges>0", text])
    assert says in str(error.value)

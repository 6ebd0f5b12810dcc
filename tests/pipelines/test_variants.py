"""Variants of an evaluation and their mistakes."""

from __future__ import annotations

import pytest

from osasis.errors import UserError
from pipelines.variants import make_variants, parse_sweep


def test_columns_are_the_mix_or_the_values_of_sweeps_then_baselines() -> None:
    (ours,) = make_variants({}, [], [])
    assert (ours.name, ours.fields, ours.as_registered) == ("ours", {}, True)
    found = make_variants(
        {"text_amount": 3}, [("strength", [0.4, 1]), ("t0", [0.5])], ["no-spn", "sdedit"]
    )
    assert [(v.name, v.fields) for v in found] == [
        ("strength=0.4", {"text_amount": 3, "strength": 0.4}),
        ("strength=1", {"text_amount": 3, "strength": 1}),
        ("t0=0.5", {"text_amount": 3, "t0": 0.5}),
        ("no-spn", {"text_amount": 3, "structure": 0.0}),
        ("sdedit", None),
    ]
    assert not any(v.as_registered for v in found)


def test_a_training_setting_trains_again_and_the_mix_comes_first() -> None:
    found = make_variants(
        {"text_amount": 3}, [("in_domain", [0, 0.5]), ("structure", [0])], ["no-in-domain"]
    )
    assert [(v.name, v.fields, v.training) for v in found] == [
        ("in_domain=0", {"text_amount": 3}, {"in_domain": 0}),
        ("in_domain=0.5", {"text_amount": 3}, {"in_domain": 0.5}),
        ("structure=0", {"text_amount": 3, "structure": 0}, {}),
        ("no-in-domain", {"text_amount": 3}, {"in_domain": 0.0}),
    ]
    (alone,) = make_variants({}, [("iterations", [8])], [])
    assert not alone.as_registered


def test_sweeps_are_json_or_text() -> None:
    assert parse_sweep("strength=0,0.5,1") == ("strength", [0, 0.5, 1])
    assert parse_sweep("level_weights=[0,1],[1,0]") == ("level_weights", [[0, 1], [1, 0]])
    assert parse_sweep("iterations=8,16") == ("iterations", [8, 16])
    assert parse_sweep("text_edit=smile,old") == ("text_edit", ["smile", "old"])


@pytest.mark.parametrize("text", ["strength", "=1", "strength=", "strenght=1"])
def test_faulty_sweeps_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^--sweep '"):
        parse_sweep(text)


def test_an_unknown_name_lists_both_kinds() -> None:
    with pytest.raises(UserError, match=r"of the mix: .*strength.*; of training: .*in_domain"):
        parse_sweep("in_domian=0")


def test_a_variant_named_twice_is_refused() -> None:
    with pytest.raises(UserError, match="strength=1 is named twice"):
        make_variants({}, [("strength", [1, 1])], [])

"""The mix: validation and the JSON form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from osasis.errors import UserError
from osasis.mix import Mix, StyleShare, cutoff_weights
from osasis.networks.sizes import DiffAEConfig, load_config
from osasis.validation import InvalidInputError, Problem


def test_round_trip_through_json() -> None:
    mix = Mix(
        styles=(StyleShare(style="a", weight=2.0, mask="left"), StyleShare(style="b")),
        blend="noise",
        level_weights=(0.0, 0.5, 1.0),
        structure=0.2,
        t0=0.4,
        strength=1.5,
        encode_steps=20,
        decode_steps=10,
        text_edit="smile",
        text_amount=-2.0,
    )
    assert Mix.parse(json.loads(json.dumps(mix.to_dict()))) == mix


def test_short_forms() -> None:
    assert Mix.parse({"styles": ["a", {"style": "b", "weight": 3}]}) == Mix(
        styles=(StyleShare(style="a"), StyleShare(style="b", weight=3))
    )
    assert Mix.of("a", "b", strength=0.5) == Mix(
        styles=(StyleShare(style="a"), StyleShare(style="b")), strength=0.5
    )


def test_a_style_acts_from_its_start_to_its_end() -> None:
    mix = Mix.parse({"styles": ["a", {"style": "b", "start": 0.25, "guidance": 2}]})
    assert [s.span for s in mix.styles] == [(0.0, 1.0), (0.25, 1.0)]
    # Data of mixes without these fields is that of earlier versions.
    assert mix.to_dict()["styles"] == [
        {"style": "a", "weight": 1.0, "mask": None},
        {"style": "b", "weight": 1.0, "mask": None, "start": 0.25, "guidance": 2.0},
    ]
    found = problems({"styles": ["a", {"style": "b", "start": 0.5, "end": 0.5}]})
    assert found["styles[1].end"].allowed == "a number above start, 0.5"


def test_a_cutoff_and_level_weights_exclude_each_other() -> None:
    found = problems({"styles": ["a"], "content_cutoff": 16, "level_weights": [1, 0, 0]})
    assert list(found) == ["level_weights"]
    assert "content_cutoff exclude each other" in found["level_weights"].message


def test_every_problem_is_named_at_once() -> None:
    data: dict[str, Any] = {
        "styles": [{"style": "a", "weight": 0}, {"style": "b", "colour": 1}, {"weight": 1}, 7],
        "blend": "pixels",
        "structure": -1,
        "t0": 2,
        "strength": "much",
        "text_amount": float("nan"),
        "content_cutoff": True,
        "encode_steps": 3000,
        "decode_steps": 2.5,
        "level_weights": [0.5, 1.5, "x"],
        "strenght": 1,
    }
    found = problems(data)
    assert {field: p.allowed for field, p in found.items()} == {
        "styles[0].weight": "a number in (0, 1000]",
        "styles[1].colour": "",
        "styles[2].style": "text of 1 to 200 characters",
        "styles[3]": "an object",
        "blend": "one of weights, noise",
        "structure": "a number in [0, 10] or null",
        "t0": "a number in [0.05, 1] or null",
        "strength": "a number in [0, 4] or null",
        "text_amount": "a number in [-10, 10]",
        "content_cutoff": "a whole number in [1, 4096] or null",
        "encode_steps": "a whole number in [1, 1000] or null",
        "decode_steps": "a whole number in [1, 1000] or null",
        "level_weights[1]": "a number in [0, 1]",
        "level_weights[2]": "a number in [0, 1]",
        "strenght": "",
    }
    assert "(nearest: strength" in found["strenght"].message


def problems(data: dict[str, Any]) -> dict[str, Problem]:
    """The problems of a mix, by field."""
    with pytest.raises(InvalidInputError) as e:
        Mix.parse(data)
    text = str(e.value)
    assert text.startswith("mix: ") and "\n" not in text
    return {p.field: p for p in e.value.problems}


@pytest.mark.parametrize("data", [{"styles": None}, {"styles": []}, {}])
def test_a_mix_needs_a_style(data: dict[str, Any]) -> None:
    (problem,) = problems(data).values()
    assert problem.field == "styles" and problem.allowed.startswith("a list of 1 to 64 items")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("styles", 3),
        ("styles", "a"),
        ("styles", {"style": "a"}),
        ("styles", [{"style": 3}]),
        ("styles", [{"style": ["a"]}]),
        ("styles", [{"style": "a", "mask": 3}]),
        ("level_weights", 0.5),
        ("level_weights", "abc"),
        ("blend", ["noise"]),
        ("blend", {}),
        ("text_edit", 3),
        ("seed", "x"),
        ("seed", None),
        ("decode_steps", True),
    ],
)
def test_json_of_any_type_gives_a_user_error(field: str, value: Any) -> None:
    """The mix is part of the HTTP body, where a client can send any JSON."""
    with pytest.raises(UserError, match=field.removesuffix("s")):
        Mix.parse({"styles": ["a"], field: value})


@pytest.mark.parametrize("data", [[], "a", None, 3])
def test_json_that_is_not_an_object_gives_a_user_error(data: Any) -> None:
    with pytest.raises(UserError):
        Mix.parse(data)


def test_levels_are_checked_against_the_base(tiny_config: DiffAEConfig) -> None:
    mix = Mix.of("a", level_weights=(0.0, 1.0))
    (problem,) = mix.problems_on(tiny_config)
    assert (problem.field, problem.value, problem.allowed) == (
        "level_weights",
        [0.0, 1.0],
        "3 numbers",
    )
    with pytest.raises(InvalidInputError, match="this base has 3 resolution levels"):
        mix.check_on(tiny_config)
    assert Mix.of("a", level_weights=(0.0, 1.0, 0.5)).problems_on(tiny_config) == []


def test_cutoff_weights() -> None:
    ffhq = load_config("ffhq256")
    assert cutoff_weights(32, ffhq) == (1, 1, 1, 1, 0, 0)  # 256, 128, 64, 32; not 16, 8
    assert cutoff_weights(256, ffhq) == (1, 0, 0, 0, 0, 0)
    assert cutoff_weights(33, ffhq) == (1, 1, 1, 0, 0, 0)
    assert cutoff_weights(1, ffhq) == (1,) * 6
    assert cutoff_weights(512, ffhq) == (0,) * 6

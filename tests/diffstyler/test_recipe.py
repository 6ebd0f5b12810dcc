"""What a mix means on a base of DiffStyler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from diffstyler.base import Base
from diffstyler.encodings import Encodings, encode_photos, encode_plan
from diffstyler.mix_fields import mix_problems
from diffstyler.recipe import decode_rows, make_recipe
from diffstyler.settings import make_settings
from diffstyler.style import Style
from osasis.mix import Mix
from tests.diffstyler.tiny_sd import half_mask, picture, random_adapter

STEPS = 4
SETTINGS = make_settings(encode_steps=STEPS, decode_steps=STEPS)


@pytest.fixture(scope="module")
def styles(base: Base) -> dict[str, Style]:
    return {
        name: Style(name, random_adapter(base, seed), f"painting of {name}", SETTINGS)
        for seed, name in enumerate("ab", start=1)
    }


@pytest.fixture(scope="module")
def encodings(base: Base) -> Encodings:
    plan = encode_plan(None, SETTINGS, base.device)
    return encode_photos(base, picture(0)[None], plan, pass_size=1)


def stylized(
    base: Base, encodings: Encodings, styles: dict[str, Style], *shares: Any, **fields: Any
) -> Tensor:
    mix = Mix.parse({"styles": list(shares), **fields})
    assert mix_problems(mix) == []
    masks = {side: half_mask(side).float() / 255 for side in ("left", "right")}
    recipe = make_recipe(base, mix, styles, encodings.plan, masks=masks)
    return decode_rows(base, [(encodings, recipe)], pass_size=1)


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-4, rtol=1e-4)


def test_a_style_that_acts_throughout_is_the_style(
    base: Base, encodings: Encodings, styles: dict[str, Style]
) -> None:
    whole = stylized(base, encodings, styles, "a")
    assert torch.equal(
        stylized(base, encodings, styles, {"style": "a", "start": 0, "end": 1}), whole
    )
    early = stylized(base, encodings, styles, {"style": "a", "end": 0.5})
    late = stylized(base, encodings, styles, {"style": "a", "start": 0.5})
    assert not close(early, whole) and not close(late, whole) and not close(early, late)


def test_styles_of_a_blend_take_turns(
    base: Base, encodings: Encodings, styles: dict[str, Style]
) -> None:
    # A style that acts alone has the whole picture, whatever its weight.
    turns = [
        stylized(
            base, encodings, styles,
            {"style": "a", "end": 0.5, "weight": weight}, {"style": "b", "start": 0.5},
            blend="noise",
        )
        for weight in (1, 9)
    ]  # fmt: skip
    assert torch.equal(*turns)
    both = stylized(base, encodings, styles, "a", {"style": "b", "weight": 1}, blend="noise")
    assert not close(turns[0], both)
    order = stylized(base, encodings, styles, "b", "a", blend="noise")
    assert close(both, order)


def test_a_style_of_a_mix_has_its_own_guidance(
    base: Base, encodings: Encodings, styles: dict[str, Style]
) -> None:
    own = stylized(base, encodings, styles, {"style": "a", "guidance": 2.0})
    assert torch.equal(own, stylized(base, encodings, styles, "a", guidance=2.0))
    assert not close(own, stylized(base, encodings, styles, "a"))
    halves = stylized(
        base, encodings, styles,
        {"style": "a", "mask": "left", "guidance": 2.0}, {"style": "b", "mask": "right"},
    )  # fmt: skip
    plain = stylized(
        base, encodings, styles, {"style": "a", "mask": "left"}, {"style": "b", "mask": "right"}
    )
    assert not close(halves, plain)


@pytest.mark.parametrize(
    ("mix", "fields"),
    [
        (
            {"styles": [{"style": "a", "end": 0.5}, {"style": "b", "guidance": 1.0}]},
            ["styles[0].end", "styles[1].guidance"],
        ),
        ({"styles": [{"style": "a", "end": 0.5}, "b"], "blend": "noise"}, []),
        ({"styles": [{"style": "a", "end": 0.5, "mask": "left"}, "b"]}, []),
        ({"styles": [{"style": "a", "mask": "left", "weight": 2}]}, ["styles[0].weight"]),
        ({"styles": ["a"], "decode_steps": 1000}, ["decode_steps"]),
    ],
)
def test_problems(mix: dict[str, Any], fields: list[str]) -> None:
    assert [p.field for p in mix_problems(Mix.parse(mix))] == fields

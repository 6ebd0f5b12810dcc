"""Mixes of DiffStyler: batches, masks, blends, fields."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from diffstyler.settings import make_settings
from diffstyler.style import Style
from factory.methods import check_mix
from factory.methods.diffstyler.base import DiffStylerBase
from factory.methods.diffstyler.method import DiffStylerMethod
from osasis.errors import UserError
from osasis.mix import Mix
from osasis.validation import InvalidInputError
from tests.diffstyler.tiny_base import FEW
from tests.diffstyler.tiny_sd import SIZE, half_mask

SETTINGS = make_settings("default", **FEW)
# Rounding of products, whose order depends on the size of a batch.
ROUNDING = 1e-4


def masks() -> dict[str, Tensor]:
    return {side: half_mask(side).float() / 255 for side in ("left", "right")}


def stylized(
    base: DiffStylerBase, photos: Tensor, styles: dict[str, Style], mix: Mix, **options: Any
) -> Tensor:
    check_mix(mix, base.info)
    plan = base.plan(mix, styles[mix.styles[0].style].settings)
    recipe = base.recipe(mix, styles, plan, masks=masks())
    return base.decode_rows([(base.encode(photos, plan), recipe)], **options)


def test_a_mixed_batch_equals_each_alone(
    base: DiffStylerBase, styles: dict[str, Style], photos: Tensor
) -> None:
    two = [{"style": "a", "mask": "left"}, {"style": "b", "mask": "right"}]
    mixes = [
        Mix.of("a"),
        Mix.of("b", strength=0.5, guidance=1.5),
        Mix.of("a", "b", blend="noise"),
        Mix.parse({"styles": two, "attention_window": 1.0}),
    ]
    plan = base.plan(None, SETTINGS)
    encodings = base.encode(photos, plan)
    recipes = [base.recipe(mix, styles, plan, masks=masks()) for mix in mixes]
    rows = [(encodings.take(slice(i % 2, i % 2 + 1)), r) for i, r in enumerate(recipes)]
    alone = [base.decode_rows([row], pass_size=1) for row in rows]
    # A pass of one photo computes the same whatever else is decoded.
    assert torch.equal(base.decode_rows(rows, pass_size=1), torch.cat(alone))
    together = base.decode_rows(rows, pass_size=4)
    assert float((together - torch.cat(alone)).abs().max()) < ROUNDING
    assert base.groups(recipes, 4) == [[0, 1, 2, 3]]
    assert base.groups(recipes, 1) == [[0], [1], [2], [3]]


def test_masks_limit_styles_and_later_ones_lie_over_earlier_ones(
    base: DiffStylerBase, styles: dict[str, Style], photos: Tensor
) -> None:
    left = Mix.parse({"styles": [{"style": "a", "mask": "left"}]})
    pictures = stylized(base, photos, styles, left)
    # Outside of all masks lies the photo itself.
    assert torch.equal(pictures[..., SIZE // 2 :], photos[..., SIZE // 2 :])
    assert not torch.equal(pictures[..., : SIZE // 2], photos[..., : SIZE // 2])
    covered = Mix.parse({"styles": [{"style": "a", "mask": "left"}, {"style": "b"}]})
    # The base's pass is not seen, nor is style a.
    alone = stylized(base, photos, styles, Mix.of("b"))
    assert float((stylized(base, photos, styles, covered) - alone).abs().max()) < ROUNDING


def test_blends_of_weights_and_of_predictions(
    base: DiffStylerBase, styles: dict[str, Style], photos: Tensor
) -> None:
    # Of a style with itself, both are the style alone.
    same = {"a": styles["a"], "b": replace(styles["a"], id="b")}
    alone = stylized(base, photos, same, Mix.of("a"))
    for blend in ("weights", "noise"):
        shares = [{"style": "a", "weight": 1}, {"style": "b", "weight": 3}]
        mix = Mix.parse({"styles": shares, "blend": blend})
        assert float((stylized(base, photos, same, mix) - alone).abs().max()) < 1e-3, blend
    # A hundredth of another style is nearly none.
    little = Mix.parse(
        {"styles": [{"style": "a", "weight": 1}, {"style": "b", "weight": 1e-4}], "blend": "noise"}
    )
    near = stylized(base, photos, styles, little)
    assert 0 < float((near - alone).abs().max()) < 0.05


def test_fields_change_the_picture(
    base: DiffStylerBase, styles: dict[str, Style], photos: Tensor
) -> None:
    plain = stylized(base, photos, styles, Mix.of("a"))
    for change in (
        {"guidance": 5.0},
        {"negative_prompt": "grey"},
        {"attention_window": 0.0},
        {"feature_window": 0.0},
        {"structure": 0.0},
        {"strength": 0.0},
        {"decode_steps": 2},
    ):
        assert not torch.equal(stylized(base, photos, styles, Mix.of("a", **change)), plain), change
    # structure scales both windows.
    none = stylized(base, photos, styles, Mix.of("a", attention_window=0.0, feature_window=0.0))
    assert torch.equal(stylized(base, photos, styles, Mix.of("a", structure=0.0)), none)


def test_inversion_follows_decode_steps_that_are_set_alone(base: DiffStylerBase) -> None:
    assert base.plan(Mix.of("a", decode_steps=7), SETTINGS).steps == 7
    assert base.plan(Mix.of("a", decode_steps=2), SETTINGS).steps == 4
    with pytest.raises(InvalidInputError, match=r"encode_steps is 5, but inversion must visit"):
        base.plan(Mix.of("a", encode_steps=5), SETTINGS)


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ({"content_cutoff": 16}, "content_cutoff is no field of a mix of method diffstyler"),
        ({"level_weights": [1.0]}, "level_weights is no field of a mix of method diffstyler"),
        ({"t0": 0.5}, "t0 is no field of a mix of method diffstyler"),
        ({"text_edit": "smile"}, "text_edit is no field of a mix of method diffstyler"),
        ({"decode_steps": 1000}, r"decode_steps is 1000; it must be a whole number in \[1, 999\]"),
        (
            {"styles": [{"style": "a", "mask": "left", "weight": 2}]},
            r"styles\[0\]\.weight is 2, but later masks lie over earlier ones",
        ),
    ],
)
def test_mixes_of_other_methods_are_refused(
    base: DiffStylerBase, mix: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        check_mix(Mix.parse({"styles": ["a"], **mix}), base.info)


def test_black_masks_and_long_prompts_are_refused(
    base: DiffStylerBase, styles: dict[str, Style], photos: Tensor
) -> None:
    plan = base.plan(None, SETTINGS)
    mix = Mix.parse({"styles": [{"style": "a", "mask": "m"}]})
    black = {"m": torch.zeros(SIZE, SIZE)}
    with pytest.raises(UserError, match="mask 'm' is black at 16x16 pixels"):
        base.recipe(mix, styles, plan, masks=black)
    long = Mix.of("a", negative_prompt="a " * 90)
    with pytest.raises(UserError, match=r"tokens with its start and end; the text encoder reads"):
        base.recipe(long, styles, plan)


def test_the_defaults_of_a_mix_change_nothing(
    base: DiffStylerBase, styles: dict[str, Style]
) -> None:
    found = DiffStylerMethod().mix_defaults({"settings": SETTINGS.to_dict()}, base.info)
    assert set(found) <= DiffStylerMethod.mix_fields
    plain, explicit = Mix.of("a"), Mix.of("a", **found)
    check_mix(explicit, base.info)
    assert base.plan(explicit, SETTINGS) == base.plan(plain, SETTINGS)
    recipes = [base.recipe(mix, styles, base.plan(mix, SETTINGS)) for mix in (plain, explicit)]
    assert recipes[0].settings == recipes[1].settings
    assert recipes[0].layers[0].settings == recipes[1].layers[0].settings

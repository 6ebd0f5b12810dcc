"""The facts of OSASIS: which settings its fingerprints hash, defaults of mixes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from factory.methods import check_mix, find_method
from factory.training.fingerprint import fingerprint
from osasis.encode import encode_plan
from osasis.mix import Mix, cutoff_weights
from osasis.settings import make_settings
from osasis.validation import InvalidInputError
from tests.tiny import CONFIG


def of(settings: dict[str, Any]) -> str:
    return fingerprint(b"image", None, "0123", find_method("osasis").relevant(settings))


def test_fingerprints_of_older_homes_stay_valid() -> None:
    """Computed before adapters were settings."""
    published = make_settings("reference").to_dict()
    assert of(published) == "adf0da7222895162"
    assert of(make_settings("default", seed=3, compact_rank=None).to_dict()) == "3850ef4cd2e3c438"
    # The rank of factors counts where factors are trained.
    low = [make_settings("reference", adapter="lora", adapter_rank=r).to_dict() for r in (4, 8)]
    assert len({of(s) for s in [published, *low]}) == 3


def test_settings_without_effect_are_not_hashed() -> None:
    same = {"iterations": 2, "seed": 0}
    # Styles of other precisions than float32 were once trained with losses in that precision.
    for precision, hashed in (("float32", False), ("auto", True), ("bfloat16", True)):
        settings = {**same, "precision": precision}
        with_losses = of({**settings, "losses": "float32"})
        assert (of(settings) == with_losses) is hashed
    # The checkpoint interval does not affect the result.
    assert of({**same, "checkpoint_every": 5}) == of(same)


@pytest.mark.parametrize("preset", ["default", "reference"])
def test_the_defaults_of_a_mix_are_what_it_leaves_out(preset: str) -> None:
    settings = make_settings(preset)
    style, base = (
        {"settings": settings.to_dict(), "arithmetic": "float32"},
        {"config": CONFIG.to_dict()},
    )
    found = find_method("osasis").mix_defaults(style, base)
    mix = Mix.of("a", **{k: v for k, v in found.items() if k != "content_cutoff"})
    check_mix(mix, base)
    assert {name for name in found if getattr(Mix.of("a"), name) is not None} == set()
    device = torch.device("cpu")
    assert encode_plan(mix, settings, device) == encode_plan(None, settings, device)
    assert found["decode_steps"] == settings.stylize_decode_steps
    assert found["level_weights"] == cutoff_weights(found["content_cutoff"], CONFIG)


def test_fields_of_another_methods_styles_are_refused() -> None:
    mix = Mix.parse({"styles": ["a", {"style": "b", "start": 0.5, "guidance": 3}]})
    with pytest.raises(InvalidInputError) as e:
        check_mix(mix, {"config": CONFIG.to_dict()})
    assert [p.field for p in e.value.problems] == ["styles[1].guidance", "styles[1].start"]

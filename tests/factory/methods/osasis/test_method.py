"""The facts of OSASIS: which settings its fingerprints hash."""

from __future__ import annotations

from typing import Any

from factory.methods import find_method
from factory.training.fingerprint import fingerprint
from osasis.settings import make_settings


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

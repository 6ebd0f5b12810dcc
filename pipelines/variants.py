"""The variants that an evaluation compares: our method in one or more mixes, and baselines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from factory.methods import all_settings
from osasis.errors import UserError, did_you_mean
from osasis.evaluation.names import parse_baseline
from pipelines.targets import MIX_FIELDS

OURS = "ours"
TRAINING_FIELDS = tuple(name for name in all_settings() if name not in MIX_FIELDS)


@dataclass(frozen=True)
class Variant:
    """A way of making a stylization.

    fields: the mix's; None: a baseline. training: settings with which the styles are trained again.
    """

    name: str
    fields: dict[str, Any] | None
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def as_registered(self) -> bool:
        """Whether this is our method with the style's own settings."""
        return self.fields == {} and not self.training


def make_variants(
    mix: Mapping[str, Any], sweeps: Sequence[tuple[str, Sequence[Any]]], baselines: Sequence[str]
) -> list[Variant]:
    """The variants in the order of the table's columns.

    mix: fields for all of our variants. sweeps: (field, values) of the mix, else of the training
    settings; each value is a variant. Without a sweep there is one variant, ``ours``. baselines: as
    ``parse_baseline`` reads them. Raises UserError.
    """
    found = [
        _swept(f"{name}={shown(value)}", mix, name, value)
        for name, values in sweeps
        for value in values
    ] or [Variant(OURS, dict(mix))]
    for name in dict.fromkeys(baselines):
        parse_baseline(name)
        found.append(_named(name, mix))
    names = [v.name for v in found]
    if twice := [n for n in names if names.count(n) > 1]:
        raise UserError(f"{twice[0]} is named twice; name each variant once")
    return found


def _swept(label: str, mix: Mapping[str, Any], name: str, value: Any) -> Variant:
    if name in MIX_FIELDS:
        return Variant(label, {**mix, name: value})
    return Variant(label, dict(mix), {name: value})


def _named(name: str, mix: Mapping[str, Any]) -> Variant:
    """The variant of a baseline or ablation."""
    if name == "no-spn":
        return _swept(name, mix, "structure", 0.0)
    if name == "no-in-domain":
        return _swept(name, mix, "in_domain", 0.0)
    return Variant(name, None)


def parse_sweep(text: str) -> tuple[str, list[Any]]:
    """Parse NAME=a,b,c; values are JSON, else text. Raises UserError."""
    name, equals, values = text.partition("=")
    if not equals or not name or not values.strip():
        raise UserError(f"--sweep {text!r}: write NAME=a,b,c")
    if name not in MIX_FIELDS + TRAINING_FIELDS:
        raise UserError(
            f"--sweep {text!r}: {name!r} is no field of the mix and no training setting"
            f"{did_you_mean(name, MIX_FIELDS + TRAINING_FIELDS)}; of the mix: "
            f"{', '.join(MIX_FIELDS)}; of training: {', '.join(TRAINING_FIELDS)}"
        )
    try:
        return name, json.loads(f"[{values}]")
    except ValueError:
        return name, [part.strip() for part in values.split(",")]


def shown(value: Any) -> str:
    """A value as part of a file name."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("/", "_").replace(" ", "")

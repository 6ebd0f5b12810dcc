"""The variants that an evaluation compares: our method in one or more mixes, and baselines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from osasis.errors import UserError, did_you_mean
from osasis.evaluation.names import ABLATION_NAMES, BASELINE_NAMES
from pipelines.targets import MIX_FIELDS

OURS = "ours"


@dataclass(frozen=True)
class Variant:
    """A way of making a stylization. fields: the mix's; None: a baseline."""

    name: str
    fields: dict[str, Any] | None

    @property
    def as_registered(self) -> bool:
        """Whether this is our method with the style's own settings."""
        return self.fields == {}


def make_variants(
    mix: Mapping[str, Any], sweeps: Sequence[tuple[str, Sequence[Any]]], baselines: Sequence[str]
) -> list[Variant]:
    """The variants in the order of the table's columns.

    mix: fields for all of our variants. sweeps: (field, values); each value is a variant. Without
    a sweep there is one variant, ``ours``. baselines: of BASELINE_NAMES and ABLATION_NAMES.
    Raises UserError.
    """
    found = [
        Variant(f"{name}={shown(value)}", {**mix, name: value})
        for name, values in sweeps
        for value in values
    ] or [Variant(OURS, dict(mix))]
    for name in dict.fromkeys(baselines):
        if name not in BASELINE_NAMES + ABLATION_NAMES:
            known = BASELINE_NAMES + ABLATION_NAMES
            raise UserError(
                f"unknown baseline {name!r}{did_you_mean(name, known)}; choose from "
                f"{', '.join(known)}"
            )
        found.append(Variant(name, {**mix, "structure": 0.0} if name == "no-spn" else None))
    names = [v.name for v in found]
    if twice := [n for n in names if names.count(n) > 1]:
        raise UserError(f"{twice[0]} is named twice; name each variant once")
    return found


def parse_sweep(text: str) -> tuple[str, list[Any]]:
    """Parse NAME=a,b,c; values are JSON, else text. Raises UserError."""
    name, equals, values = text.partition("=")
    if not equals or not name or not values.strip():
        raise UserError(f"--sweep {text!r}: write NAME=a,b,c")
    if name not in MIX_FIELDS:
        raise UserError(
            f"--sweep {text!r}: {name!r} is no field of the mix{did_you_mean(name, MIX_FIELDS)}; "
            "train a style with another training setting, and evaluate both styles"
        )
    try:
        return name, json.loads(f"[{values}]")
    except ValueError:
        return name, [part.strip() for part in values.split(",")]


def shown(value: Any) -> str:
    """A value as part of a file name."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("/", "_").replace(" ", "")

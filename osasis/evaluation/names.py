"""Names of the evaluation's metrics and baselines; imports little, so that help stays quick."""

from __future__ import annotations

import math

from osasis.errors import UserError, did_you_mean

# In the order of tables.
METRIC_NAMES = (
    "lpips",
    "identity",
    "structure",
    "style",
    "csd",
    "csls",
    "style_distance",
    "direction",
    "edges",
    "fid",
    "artfid",
    "tone_slope",
    "lightened_dark",
    "lightened_light",
)
# ``gatys=1e6`` is Gatys with a style weight of a million.
BASELINE_NAMES = ("reinhard", "gatys", "sdedit")
GATYS_WEIGHT = 3e5
# Our method without one of its parts.
ABLATION_NAMES = ("no-spn", "no-in-domain")


def parse_baseline(text: str) -> tuple[str, float]:
    """Name of a baseline or ablation, and the style weight of ``gatys``. Raises UserError."""
    name, equals, value = text.partition("=")
    known = BASELINE_NAMES + ABLATION_NAMES
    if name not in known:
        raise UserError(
            f"unknown baseline {name!r}{did_you_mean(name, known)}; choose from {', '.join(known)}"
        )
    if not equals:
        return name, GATYS_WEIGHT
    try:
        weight = float(value)
    except ValueError:
        weight = math.nan
    if name != "gatys" or not 0 < weight < math.inf:
        raise UserError(
            f"baseline {text!r}: only gatys takes a value, its style weight, a number above 0 "
            f"such as gatys={GATYS_WEIGHT:g}"
        )
    return name, weight


# Prefix of the names in the registry and in gates.
PREFIX = "evaluate."

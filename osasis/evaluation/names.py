"""Names of the evaluation's metrics and baselines; imports nothing, so that help stays quick."""

from __future__ import annotations

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
BASELINE_NAMES = ("reinhard", "gatys", "sdedit")
# Our method without one of its parts.
ABLATION_NAMES = ("no-spn", "no-in-domain")
# Prefix of the names in the registry and in gates.
PREFIX = "evaluate."

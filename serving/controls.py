"""Descriptions of the page's controls, one for each field of the mix, from its JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from osasis.mix import Mix
from serving.config import Limits

# Numbers of steps that a slider offers.
STEPS = (5, 10, 20, 50, 100, 200, 500, 1000)
# Positions of a slider without a step of its own.
POSITIONS = 100


@dataclass(frozen=True)
class Look:
    """How a field is shown. low, high, step: of a slider, where the field's range is wider."""

    label: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    expert: bool = True


# Fields without an entry are shown after these, as experts' controls with the range of their
# schema.
LOOKS = {
    "strength": Look("Strength", 0, 2, 0.05, expert=False),
    "palette": Look("Style's colours", 0, 1, 0.05, expert=False),
    "structure": Look("Photo's structure", 0, 1, 0.02, expert=False),
    "text_edit": Look("Text edit", expert=False),
    "text_amount": Look("Amount of the text edit", -3, 3, 0.1, expert=False),
    "blend": Look("Blend of several styles"),
    "content_cutoff": Look("Content cutoff"),
    "level_weights": Look("Style by level"),
    "guidance": Look("Guidance", 0, 30, 0.5, expert=False),
    "negative_prompt": Look("Not in the picture"),
    "attention_window": Look("Photo's attention", 0, 1, 0.05),
    "feature_window": Look("Photo's features", 0, 1, 0.05),
    "t0": Look("Noise (t0)", 0.1, 0.9, 0.05),
    "encode_steps": Look("Encode steps"),
    "decode_steps": Look("Decode steps"),
}


def controls(
    base: Mapping[str, Any], limits: Limits, text_edits: Sequence[str]
) -> list[dict[str, Any]]:
    """The controls: those of ``LOOKS`` first, then those of further fields of the mix.

    base: of ``base_facts``. A control has ``name``, ``label``, ``description``, its beginning as
    ``help``, ``expert``, ``default`` (null: what the first style was trained with) and ``kind``:
    `slider` with ``low``, ``high`` and ``step``; `stops`, a slider with the positions ``values``;
    `choice` with ``values``; `text`; `levels`, a slider in [0, 1] for each of ``values``. ``unit``
    follows a value.
    """
    fields = Mix.model_json_schema()["properties"]
    found = []
    for name in sorted(base["mix_fields"], key=[*LOOKS, *fields].index):
        if name == "styles" or (name.startswith("text_") and not text_edits):
            continue
        schema, look = fields[name], LOOKS.get(name, Look(name.replace("_", " ").capitalize()))
        kind = _special_kind(name, base, text_edits) or _kind(name, schema, look, limits)
        text = schema.get("description", "").removeprefix("DiffStyler: ")
        found.append({"name": name, "label": look.label, "description": text,
                      "help": re.split("[:;]", text)[0], "expert": look.expert,
                      "default": schema.get("default"), "unit": "", **kind})  # fmt: skip
    return found


def _special_kind(
    name: str, base: Mapping[str, Any], text_edits: Sequence[str]
) -> dict[str, Any] | None:
    """Kind of a control whose values are those of the base; None for other fields."""
    if name == "text_edit":
        return {"kind": "choice", "values": [None, *text_edits]}
    if name not in ("content_cutoff", "level_weights"):
        return None
    size = base["image_size"]
    levels = [size >> i for i in range(base["levels"])]
    if name == "level_weights":
        return {"kind": "levels", "values": levels, "unit": "px"}
    # Above the finest level, no level takes z_style.
    return {"kind": "stops", "values": [*reversed(levels), 2 * size], "unit": "px"}


def _kind(name: str, schema: Mapping[str, Any], look: Look, limits: Limits) -> dict[str, Any]:
    """Kind of a field's control with its values or range, from its schema."""
    choices: list[Mapping[str, Any]] = schema.get("anyOf", [schema])
    plain = next((s for s in choices if s.get("type") != "null"), schema)
    if "enum" in plain:
        return {"kind": "choice", "values": plain["enum"]}
    if plain.get("type") not in ("number", "integer"):
        return {"kind": "text"}
    low, high = plain["minimum"], plain["maximum"]
    if name.endswith("_steps"):
        high = min(high, getattr(limits, name))
        return {"kind": "stops", "values": [s for s in STEPS if low <= s <= high]}
    low = low if look.low is None else look.low
    high = high if look.high is None else look.high
    step = look.step or (1 if plain["type"] == "integer" else (high - low) / POSITIONS)
    return {"kind": "slider", "low": low, "high": high, "step": step}

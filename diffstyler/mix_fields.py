"""The fields of the mix that DiffStyler understands."""

from __future__ import annotations

from typing import Any

from diffstyler.settings import SampleSettings, StyleSettings
from osasis.mix import DIFFSTYLER_FIELDS, DIFFSTYLER_SHARE_FIELDS, Mix
from osasis.validation import InvalidInputError, Problem

MIX_FIELDS = (
    "styles",
    "blend",
    "strength",
    "structure",
    "encode_steps",
    "decode_steps",
    *DIFFSTYLER_FIELDS,
)


def _step_problems(mix: Mix) -> list[Problem]:
    """Problems of numbers of steps; inversion follows decode_steps that are set alone."""
    given = {n: v for n in ("encode_steps", "decode_steps") if (v := getattr(mix, n)) is not None}
    steps = dict.fromkeys(("encode_steps", "decode_steps"), next(iter(given.values()), 1)) | given
    try:
        SampleSettings.parse(steps)
    except InvalidInputError as e:
        return [p for p in e.problems if p.field in given]
    return []


def mix_defaults(settings: StyleSettings) -> dict[str, Any]:
    """What the fields of a mix are that it leaves None, with a style of these settings."""
    sampling = settings.sampling()
    names = ("structure", "encode_steps", "decode_steps", *DIFFSTYLER_FIELDS)
    return {"strength": 1.0, **{name: getattr(sampling, name) for name in names}}


def mix_problems(mix: Mix) -> list[Problem]:
    """Problems of a mix that do not depend on base and styles."""
    return _step_problems(mix) + _weight_problems(mix) + _share_problems(mix)


def _weight_problems(mix: Mix) -> list[Problem]:
    return [
        Problem(
            f"styles[{i}].weight",
            share.weight,
            f"styles[{i}].weight is {share.weight:g}, but later masks lie over earlier ones, "
            "without weights",
            "1 in a mix with masks",
        )
        for i, share in enumerate(mix.styles)
        if any(s.mask for s in mix.styles) and share.weight != 1
    ]


def _share_problems(mix: Mix) -> list[Problem]:
    """Blended weights are one adapter, so that no style has a guidance or a span of its own."""
    if len(mix.styles) == 1 or mix.blend == "noise" or any(s.mask for s in mix.styles):
        return []
    return [
        Problem(
            f"styles[{i}].{name}",
            value,
            f"styles[{i}].{name} is {value:g}, but blend weights makes one adapter of all styles",
            "null, unless blend is noise or styles have masks",
        )
        for i, share in enumerate(mix.styles)
        for name in DIFFSTYLER_SHARE_FIELDS
        if (value := getattr(share, name)) is not None
    ]

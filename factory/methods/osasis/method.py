"""The facts of OSASIS that need no loaded base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osasis.bundles.base import read_base_info
from osasis.bundles.files import PREDICTOR_JSON
from osasis.metrics import METRICS
from osasis.mix import DIFFSTYLER_FIELDS, Mix
from osasis.networks.sizes import DiffAEConfig
from osasis.settings import BATCH_SIZES, PRESETS, TrainSettings, make_settings
from osasis.validation import Problem

if TYPE_CHECKING:
    import torch

    from factory.methods.osasis.base import OsasisBase
    from osasis.bundles.style import Style

FORMER_PRECISION = {"auto": "bfloat16", "bfloat16": "bfloat16 exactly"}
# Settings that did not exist, with the values that training took: not hashed, so that fingerprints
# in older homes stay valid.
ADDED = {
    "encode_solver": "ddim",
    "decode_solver": "ddim",
    "strength": 1.0,
    "palette": 0.0,
    "start": "base",
}
WITHOUT_EFFECT = (
    "checkpoint_every",
    "checkpoint_seconds",
    "recompute",
    "micro_batch",
    "memory",
)
ADAPTER = ("adapter", "adapter_rank", "adapter_alpha")
EARLY_STOPPING = ("early_stop_patience", "keep_best", "watch", "watch_every")


class OsasisMethod:
    """OSASIS; see ``factory.methods.interface.Method``."""

    name = "osasis"
    settings = TrainSettings
    presets = PRESETS
    metrics = METRICS
    mix_fields = frozenset(Mix.model_fields) - frozenset(DIFFSTYLER_FIELDS)
    share_fields: frozenset[str] = frozenset()
    any_shape = False
    models_photos = True
    pass_sizes = BATCH_SIZES

    def make_settings(self, preset: str, **overrides: Any) -> TrainSettings:
        return make_settings(preset, **overrides)

    def relevant(self, settings: dict[str, Any]) -> dict[str, Any]:
        # The early-stopping settings, while off, do not affect the result either.
        relevant = {k: v for k, v in settings.items() if k not in WITHOUT_EFFECT}
        # Precision auto was called bfloat16: hash the former names, so that fingerprints in older
        # homes stay valid.
        if (precision := relevant.get("precision")) in FORMER_PRECISION:
            relevant["precision"] = FORMER_PRECISION[precision]
        relevant = {k: v for k, v in relevant.items() if k not in ADDED or v != ADDED[k]}
        if relevant.get("precision", "float32") != "float32":
            # Losses were once taken in the forward passes' precision, which trains other weights.
            relevant["losses"] = "float32"
        if not (relevant.get("keep_best") or relevant.get("early_stop_patience")):
            relevant = {k: v for k, v in relevant.items() if k not in EARLY_STOPPING}
        if relevant.get("adapter") == "full":
            relevant = {k: v for k, v in relevant.items() if k not in ADAPTER}
        return relevant

    def can_recompute(self, settings: TrainSettings) -> bool:
        return not settings.recompute

    def check_base(self, folder: Path) -> dict[str, Any]:
        return read_base_info(folder)

    def image_size(self, info: Mapping[str, Any]) -> int:
        return _config(info).image_size

    def makes_styles(self, folder: Path) -> bool:
        return (folder / PREDICTOR_JSON).is_file()

    def facts(self, info: Mapping[str, Any]) -> dict[str, Any]:
        sizes = _config(info)
        return {"image_size": sizes.image_size, "levels": sizes.levels}

    def mix_problems(self, mix: Mix, info: Mapping[str, Any]) -> list[Problem]:
        return mix.problems_on(_config(info))

    def mix_defaults(self, style: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
        from osasis.bundles.style import style_settings
        from osasis.recipe import mix_defaults

        return mix_defaults(style_settings(style), _config(base))

    def keeps_photo(self, style: Mapping[str, Any]) -> bool:
        return True

    def load_base(self, folder: Path, device: str | torch.device) -> OsasisBase:
        from factory.methods.osasis.base import OsasisBase
        from osasis.bundles.base import load_base

        return OsasisBase(self, load_base(folder, device), folder)

    def load_style(self, folder: Path, base: Any | None) -> Style:
        from osasis.bundles.style import load_style

        return load_style(folder, None if base is None else base.networks)


def _config(info: Mapping[str, Any]) -> DiffAEConfig:
    return DiffAEConfig.parse(info["config"])

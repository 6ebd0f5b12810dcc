"""The facts of DiffStyler that need no loaded base, nor the packages of its extra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffstyler.mix_fields import MIX_FIELDS, mix_defaults, mix_problems
from diffstyler.settings import PRESETS, StyleSettings, make_settings
from osasis.bundles.files import BASE_JSON, read_base_json, verify_files
from osasis.errors import UserError
from osasis.images.geometry import WHOLE_MULTIPLE
from osasis.mix import DIFFSTYLER_SHARE_FIELDS, Mix
from osasis.validation import Problem

if TYPE_CHECKING:
    import torch

    from diffstyler.style import Style
    from factory.methods.diffstyler.base import DiffStylerBase

WITHOUT_EFFECT = ("checkpoint_every", "checkpoint_seconds", "recompute")
# A photo takes two rows of the UNet for each style, and one for its source.
PASS_SIZES = {"cpu": 1, "cuda": 4}


class DiffStylerMethod:
    """DiffStyler; see ``factory.methods.interface.Method``."""

    name = "diffstyler"
    settings = StyleSettings
    presets = PRESETS
    metrics = ("style_distance", "edges", "lpips")
    mix_fields = frozenset(MIX_FIELDS)
    share_fields = frozenset(DIFFSTYLER_SHARE_FIELDS)
    any_shape = True
    models_photos = False
    pass_sizes = PASS_SIZES

    def make_settings(self, preset: str, **overrides: Any) -> StyleSettings:
        return make_settings(preset, **overrides)

    def relevant(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in settings.items() if k not in WITHOUT_EFFECT} | {
            "method": self.name
        }

    def can_recompute(self, settings: StyleSettings) -> bool:
        return not settings.recompute

    def check_base(self, folder: Path) -> dict[str, Any]:
        info = read_base_json(folder)
        size = info.get("image_size")
        if not isinstance(size, int) or size < WHOLE_MULTIPLE or size % WHOLE_MULTIPLE:
            raise UserError(
                f"{folder / BASE_JSON}: image_size is {size!r}; it must be a multiple of "
                f"{WHOLE_MULTIPLE}; import the base again"
            )
        return info

    def image_size(self, info: Mapping[str, Any]) -> int:
        size: int = info["image_size"]
        return size

    def makes_styles(self, folder: Path) -> bool:
        return False

    def facts(self, info: Mapping[str, Any]) -> dict[str, Any]:
        return {"image_size": info["image_size"]}

    def mix_problems(self, mix: Mix, info: Mapping[str, Any]) -> list[Problem]:
        return mix_problems(mix)

    def mix_defaults(self, style: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
        return mix_defaults(StyleSettings.parse(style["settings"]))

    def keeps_photo(self, style: Mapping[str, Any]) -> bool:
        return StyleSettings.parse(style.get("settings", {})).outside == "photo"

    def load_base(self, folder: Path, device: str | torch.device) -> DiffStylerBase:

        from diffstyler.base import load_base  # says how to get the packages below
        from factory.methods.diffstyler.base import DiffStylerBase
        from osasis.devices import required_device

        quieten()
        info = self.check_base(folder)
        verify_files(folder, info.get("files", {}))
        return DiffStylerBase(self, load_base(folder, required_device(device)), info, folder)

    def load_style(self, folder: Path, base: Any | None) -> Style:
        from diffstyler.style import load_style

        if base is None:
            return load_style(folder)
        return load_style(folder, base.layout, base.fingerprint)


def quieten() -> None:
    """Silence warnings that would mix with the factory's own messages; errors are raised."""
    from transformers.utils import logging

    logging.set_verbosity_error()

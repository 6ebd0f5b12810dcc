"""A loaded Stable Diffusion behind the interface of methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffstyler.adapter import adapter_layout
from diffstyler.adapter_files import load_adapter
from diffstyler.base import Base
from diffstyler.encodings import EncodePlan, Encodings, encode_photos, encode_plan
from diffstyler.prompts import TEMPLATE, fill_template, tokenize
from diffstyler.recipe import Recipe, decode_rows, make_recipe, rows_that_share_passes
from diffstyler.settings import StyleSettings, make_settings
from diffstyler.style import Style, save_style
from factory.methods.interface import (
    Bank,
    ContentPhotos,
    Method,
    Progress,
    TrainingInputs,
    TrainingState,
)
from osasis.bundles.base import Base as Judge
from osasis.bundles.base import load_base as load_judge
from osasis.bundles.files import shipped_bases
from osasis.choices import Precision
from osasis.errors import UserError
from osasis.images.tensors import load_square
from osasis.mix import Mix

if TYPE_CHECKING:
    from factory.core.claims import Claims
    from factory.core.home import Home
    from factory.methods.diffstyler.training import DiffStylerTraining

# A base may have photos of its own, for previews: (N, 3, H, W) uint8, under this key.
PHOTOS, PHOTOS_KEY = "photos.safetensors", "photos"
# The last photos are shown in every style.
HELD_OUT = 6


class DiffStylerBase:
    """A loaded base; see ``factory.methods.interface.LoadedBase``.

    networks: the Stable Diffusion. folder: its bundle. Encodings of preview photos are made once.
    """

    def __init__(self, method: Method, networks: Base, info: dict[str, Any], folder: Path) -> None:
        self.method, self.networks, self.info, self.folder = method, networks, info, folder
        self._previews: dict[EncodePlan, Encodings] = {}

    @property
    def name(self) -> str:
        return str(self.info.get("name", self.folder.name))

    @property
    def fingerprint(self) -> str:
        return str(self.info["fingerprint"])

    @property
    def preset(self) -> str:
        return str(self.info.get("preset", "default"))

    @property
    def image_size(self) -> int:
        return self.method.image_size(self.info)

    @property
    def device(self) -> torch.device:
        return self.networks.device

    def training_identity(self, settings: StyleSettings) -> str:
        return self.fingerprint

    @cached_property
    def photos(self) -> Tensor | None:
        path = self.folder / PHOTOS
        return load_file(path)[PHOTOS_KEY] if path.is_file() else None

    @property
    def held_out(self) -> Tensor | None:
        return None if self.photos is None else self.photos[-HELD_OUT:]

    @property
    def largest_pass(self) -> int:
        return self.method.pass_sizes["cpu" if self.device.type == "cpu" else "cuda"]

    @cached_property
    def layout(self) -> dict[str, tuple[int, int]]:
        """The projections that adapters may change."""
        return adapter_layout(self.networks.unet)

    @cached_property
    def judge(self) -> Judge:
        """A Stable Diffusion has no perceptual net; the package's base has a small one."""
        return load_judge(next(iter(shipped_bases().values())), self.device)

    def plan(
        self, mix: Mix | None, settings: StyleSettings, precision: Precision | None = None
    ) -> EncodePlan:
        return encode_plan(mix, settings, self.device, precision)

    def encode(
        self, photos: Tensor, plan: EncodePlan, *, progress: Progress | None = None
    ) -> Encodings:
        return encode_photos(
            self.networks, photos, plan, pass_size=self.largest_pass, progress=progress
        )

    def recipe(
        self,
        mix: Mix,
        styles: Mapping[str, Style],
        plan: EncodePlan,
        *,
        masks: Mapping[str, Tensor] | None = None,
        text_edits: Mapping[str, Tensor] | None = None,
    ) -> Recipe:
        """``check_mix`` refuses mixes with text edits."""
        return make_recipe(self.networks, mix, styles, plan, masks=masks)

    def groups(self, recipes: Sequence[Recipe], pass_size: int) -> list[list[int]]:
        return rows_that_share_passes(recipes, pass_size)

    def decode_rows(
        self,
        rows: Sequence[tuple[Encodings, Recipe]],
        *,
        pass_size: int | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        size = pass_size or self.largest_pass
        return decode_rows(self.networks, rows, pass_size=size, progress=progress)

    def banks(
        self,
        settings: Sequence[StyleSettings],
        home: Home,
        report: Callable[[str], None],
        claims: Claims,
        photos: ContentPhotos | None = None,
    ) -> list[Bank | None]:
        """Trainings share the base alone."""
        return [None] * len(settings)

    def ready_bank(
        self, settings: StyleSettings, home: Home, photos: ContentPhotos | None = None
    ) -> tuple[bool, str | None]:
        return True, None

    def preview_encodings(self, photos: Tensor, plan: EncodePlan) -> Encodings:
        """Encodings of the preview photos, computed once."""
        known = self._previews.get(plan)
        if known is None or known.photos is not photos:
            known = self._previews[plan] = self.encode(photos, plan)
        return known

    def train(self, inputs: TrainingInputs, state: TrainingState | None) -> DiffStylerTraining:
        from factory.methods.diffstyler.training import DiffStylerTraining

        return DiffStylerTraining(self, inputs, state)

    def compact(self, style: Style, rank: int) -> tuple[Style, Callable[[Path, Path], object]]:
        raise UserError(f"{style.id}: adapters are of low rank already")

    def import_style(
        self, style_id: str, file: Path, image: Path, counterpart: Path | None, prompt: str | None
    ) -> tuple[Style, Callable[[Path], object]]:
        if counterpart is not None:
            raise UserError(
                f"--counterpart is for styles of OSASIS, but base {self.name} is of method "
                f"{self.method.name}; leave it out"
            )
        adapter = load_adapter(file, self.layout).to(self.device, torch.float16)
        text = fill_template(TEMPLATE, "") if prompt is None else prompt
        tokenize(self.networks, text)
        info = {"base": self.fingerprint, "base_name": self.name, "source_image": image.name}
        style = Style(style_id, adapter, text, make_settings(prompt=text), info)
        picture = load_square(image, self.image_size)
        return style, partial(save_style, style=style, style_image=picture)

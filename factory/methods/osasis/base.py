"""A loaded base of OSASIS behind the interface of methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from factory.core.local_copy import local_copy
from factory.methods.interface import (
    Bank,
    ContentPhotos,
    Method,
    Progress,
    TrainingInputs,
    TrainingState,
)
from osasis.arithmetic import Precision
from osasis.bundles.base import Base
from osasis.bundles.style import Style, save_style
from osasis.contents import BANK_JSON, HELD_OUT, ContentBank
from osasis.encode import EncodePlan, Encodings, encode, encode_plan, largest_pass
from osasis.errors import UserError
from osasis.images.tensors import load_square
from osasis.mix import Mix
from osasis.predictor import required_predictor
from osasis.preview_encodings import shipped_previews
from osasis.recipe import Recipe, make_recipe
from osasis.settings import TrainSettings
from osasis.stylize import decode_rows, rows_that_share_passes

if TYPE_CHECKING:
    from factory.core.claims import Claims
    from factory.core.home import Home
    from factory.core.stores import Location
    from factory.methods.osasis.training import OsasisTraining


class OsasisBase:
    """A loaded base; see ``factory.methods.interface.LoadedBase``.

    networks: the base itself. folder: its bundle. Content banks, and encodings of preview photos,
    are loaded once.
    """

    def __init__(self, method: Method, networks: Base, folder: Path) -> None:
        self.method, self.networks, self.folder = method, networks, folder
        self._banks: dict[Location, ContentBank] = {}
        self._previews: dict[EncodePlan, Encodings] = {}

    @property
    def info(self) -> dict[str, Any]:
        return self.networks.info

    @property
    def name(self) -> str:
        return self.networks.name

    @property
    def fingerprint(self) -> str:
        return self.networks.fingerprint

    @property
    def preset(self) -> str:
        return self.networks.preset

    @property
    def image_size(self) -> int:
        return self.networks.image_size

    @property
    def device(self) -> torch.device:
        return self.networks.device

    def training_identity(self, settings: TrainSettings) -> str:
        if settings.start == "base":
            return self.fingerprint
        required_predictor(self.networks)
        return f"{self.fingerprint} {self.networks.predictor_fingerprint}"

    @property
    def photos(self) -> Tensor | None:
        return self.networks.photos

    @property
    def held_out(self) -> Tensor | None:
        return None if self.photos is None else self.photos[-HELD_OUT:]

    @property
    def largest_pass(self) -> int:
        return largest_pass(self.device)

    @property
    def judge(self) -> Base:
        return self.networks

    def plan(
        self, mix: Mix | None, settings: TrainSettings, precision: Precision | None = None
    ) -> EncodePlan:
        return encode_plan(mix, settings, self.device, precision)

    def encode(
        self, photos: Tensor, plan: EncodePlan, *, progress: Progress | None = None
    ) -> Encodings:
        return encode(self.networks, photos, plan, progress=progress)

    def recipe(
        self,
        mix: Mix,
        styles: Mapping[str, Style],
        plan: EncodePlan,
        *,
        masks: Mapping[str, Tensor] | None = None,
        text_edits: Mapping[str, Tensor] | None = None,
    ) -> Recipe:
        return make_recipe(self.networks, mix, styles, plan, masks=masks, text_edits=text_edits)

    def groups(self, recipes: Sequence[Recipe], pass_size: int) -> list[list[int]]:
        return rows_that_share_passes(recipes, pass_size)

    def decode_rows(
        self,
        rows: Sequence[tuple[Encodings, Recipe]],
        *,
        pass_size: int | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        return decode_rows(self.networks, rows, pass_size=pass_size, progress=progress)

    def banks(
        self,
        settings: Sequence[TrainSettings],
        home: Home,
        report: Callable[[str], None],
        claims: Claims,
        photos: ContentPhotos | None = None,
    ) -> list[Bank | None]:
        from factory.methods.osasis.content_banks import ensure_banks

        place, base = home.shared(home.banks), home.base_location(self.folder)
        return ensure_banks(place, base, self.networks, settings, report, claims, photos)

    def ready_bank(
        self, settings: TrainSettings, home: Home, photos: ContentPhotos | None = None
    ) -> tuple[bool, str | None]:
        from factory.methods.osasis.content_banks import ready_bank

        place, base = home.shared(home.banks), home.base_location(self.folder)
        return ready_bank(place, base, self.networks, settings, photos)

    def bank(self, location: Location | None) -> ContentBank | None:
        """The content bank at a path or URI, cached."""
        if location is None:
            return None
        if location not in self._banks:
            folder = local_copy(location, BANK_JSON)
            self._banks[location] = ContentBank.load(folder, self.device)
        return self._banks[location]

    def preview_encodings(self, photos: Tensor, plan: EncodePlan) -> Encodings:
        """Encodings of the preview photos, read from the base's folder or computed once."""
        known = self._previews.get(plan)
        if known is None or known.photo is not photos:
            shipped = shipped_previews(self.folder, self.networks, photos, plan)
            known = self._previews[plan] = shipped or encode(self.networks, photos, plan)
        return known

    def train(self, inputs: TrainingInputs, state: TrainingState | None) -> OsasisTraining:
        from factory.methods.osasis.training import OsasisTraining

        return OsasisTraining(self, inputs, state)

    def compact(self, style: Style, rank: int) -> tuple[Style, Callable[[Path, Path], object]]:
        small = style.compact(rank=rank)
        if not small.low_rank:
            raise UserError(
                f"--rank {rank}: factors of this rank are larger than the weights of "
                f"{style.id}; choose a lower rank"
            )
        small.settings = style.settings.replace(compact_rank=rank)

        def save(folder: Path, of: Path) -> None:
            names = ("style", "counterpart")
            save_style(folder, small, *(load_square(of / f"{n}.png", self.image_size)
                                        for n in names))  # fmt: skip

        return small, save

    def import_style(
        self, style_id: str, file: Path, image: Path, counterpart: Path | None, prompt: str | None
    ) -> tuple[Style, Callable[[Path], object]]:
        from osasis.bundles.importers import read_style

        if prompt is not None:
            raise UserError(
                f"--prompt is for styles of DiffStyler, but base {self.name} is of method "
                f"{self.method.name}; leave it out"
            )
        style_image = load_square(image, self.image_size)
        photo = style_image if counterpart is None else load_square(counterpart, self.image_size)
        style = read_style(file, self.networks, style_id, style_image[None])
        return style, partial(save_style, style=style, style_image=style_image, counterpart=photo)

"""The plan of a training run: which styles are registered, which fail, and which to train."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from factory.catalog import CatalogEntry
from factory.core.failures import describe_failure, failure_kind
from factory.methods import LoadedBase
from factory.registry import CHAMPION, StyleVersion
from factory.reports.results import StyleResult
from factory.reports.style_states import Failed
from factory.training.fingerprint import fingerprint
from factory.training.staged_images import StagedImages
from osasis.errors import UserError
from osasis.images.decoding import load_image


@dataclass(frozen=True)
class PlannedStyle:
    """A style of a run.

    settings: of the base's method. registered: the version with the same fingerprint. failure: why
    the style cannot be trained.
    """

    entry: CatalogEntry
    settings: Any
    fingerprint: str
    registered: StyleVersion | None = None
    failure: Failed | None = None

    @property
    def claim(self) -> str:
        """Name of the style's claim and of its folder in ``Home.training``."""
        return f"{self.entry.id}-{self.fingerprint}"

    @property
    def needs_training(self) -> bool:
        return self.registered is None and self.failure is None

    def result(self) -> StyleResult:
        """Result before training: skipped if registered, else failed."""
        if self.registered is not None:
            aliases = self.registered.aliases
            alias = CHAMPION if CHAMPION in aliases else next(iter(aliases), None)
            return StyleResult(self.entry.id, "skipped", self.registered.version, alias=alias)
        reason, kind = (self.failure.reason, self.failure.kind) if self.failure else (None, None)
        return StyleResult(self.entry.id, "failed", reason=reason, kind=kind)


def make_plan(
    entries: Iterable[CatalogEntry],
    preset: str,
    overrides: Mapping[str, Any],
    base: LoadedBase,
    photos: str | None,
    versions: Mapping[str, list[StyleVersion]],
    images: StagedImages,
) -> list[PlannedStyle]:
    """The fingerprint of every entry, and the registered version with that fingerprint.

    photos: fingerprint of the photos that replace the base's own. versions: registered versions
    by style. images: the images that the catalog check has read. Images of styles to train are
    decoded here, so that a broken image is reported before Ray starts.
    """
    plan = []
    for entry in entries:
        settings = entry.settings(base.method, preset, dict(overrides))
        relevant, key = base.method.relevant(settings.to_dict()), ""
        try:
            image = images.read(entry.image)
            counterpart = images.read(entry.counterpart) if entry.counterpart else None
            identity = base.training_identity(settings)
            key = fingerprint(image, counterpart, identity, relevant, photos)
            found = next((v for v in versions.get(entry.id, []) if v.fingerprint == key), None)
            if found is None:
                _check_images(entry, image, counterpart, base.image_size)
            plan.append(PlannedStyle(entry, settings, key, found))
        except UserError as e:
            failure = Failed(describe_failure(e), failure_kind(e))
            plan.append(PlannedStyle(entry, settings, key, failure=failure))
    return plan


def _check_images(entry: CatalogEntry, image: bytes, counterpart: bytes | None, size: int) -> None:
    """Decode the style image and the counterpart. Raises ImageError naming the file that fails."""
    load_image(image, name=entry.image, target=size)
    if counterpart is not None:
        load_image(counterpart, name=f"counterpart of {entry.image}", target=size)

"""The plan of a training run: the fingerprint of every style, and which are registered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from factory.catalog import CatalogEntry
from factory.core.failures import describe_failure, failure_kind
from factory.registry import CHAMPION, StyleVersion
from factory.reports.results import StyleResult
from factory.training.fingerprint import fingerprint
from factory.training.staged_images import StagedImages
from osasis.bundles.base import Base
from osasis.errors import UserError
from osasis.images.decoding import load_image
from osasis.settings import TrainSettings


@dataclass(frozen=True)
class Planned:
    """A style of a run.

    registered: the version with the same fingerprint. reason, kind: why the style cannot be
    trained, and the kind of that failure.
    """

    entry: CatalogEntry
    settings: TrainSettings
    fingerprint: str
    registered: StyleVersion | None
    reason: str | None = None
    kind: str | None = None

    @property
    def claim(self) -> str:
        """Name of the style's claim and of its folder in ``Home.training``."""
        return f"{self.entry.id}-{self.fingerprint}"

    @property
    def waits(self) -> bool:
        """Whether the style must be trained."""
        return self.registered is None and self.reason is None

    def settled(self) -> StyleResult:
        """The result of a style that is registered or cannot be trained."""
        if self.registered is None:
            return StyleResult(self.entry.id, "failed", reason=self.reason, kind=self.kind)
        aliases = self.registered.aliases
        alias = CHAMPION if CHAMPION in aliases else next(iter(aliases), None)
        return StyleResult(self.entry.id, "skipped", self.registered.version, alias=alias)


def make_plan(
    entries: Iterable[CatalogEntry],
    preset: str,
    overrides: Mapping[str, Any],
    base: Base,
    photos: str | None,
    there: Mapping[str, list[StyleVersion]],
    images: StagedImages,
) -> list[Planned]:
    """Every entry with its fingerprint, and the registered version with the same fingerprint.

    photos: fingerprint of the photos that replace the base's own. there: registered versions by
    style. images: as the catalog check has read them. The images of styles to train are decoded
    here, so that a broken one is reported before Ray starts.
    """
    plan = []
    for entry in entries:
        settings = entry.settings(preset, dict(overrides))
        key = ""
        try:
            image = images.read(entry.image)
            counterpart = images.read(entry.counterpart) if entry.counterpart else None
            key = fingerprint(image, counterpart, base.fingerprint, settings.to_dict(), photos)
            found = next((v for v in there.get(entry.id, []) if v.fingerprint == key), None)
            if found is None:
                _decode(entry, image, counterpart, base.config.image_size)
        except UserError as e:
            plan.append(Planned(entry, settings, key, None, describe_failure(e), failure_kind(e)))
            continue
        plan.append(Planned(entry, settings, key, found))
    return plan


def _decode(entry: CatalogEntry, image: bytes, counterpart: bytes | None, size: int) -> None:
    """Raises ImageError naming the picture that cannot be decoded."""
    load_image(image, name=entry.image, target=size)
    if counterpart is not None:
        load_image(counterpart, name=f"counterpart of {entry.image}", target=size)

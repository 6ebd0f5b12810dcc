"""What a run of training is to do: every style with its fingerprint, and what is there already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from factory.catalog import CatalogEntry
from factory.core.failures import describe_failure, failure_kind
from factory.registry import CHAMPION, StyleVersion
from factory.reports.results import StyleResult
from factory.training.fingerprint import fingerprint
from osasis.bundles.base import Base
from osasis.errors import UserError
from osasis.images.decoding import load_image
from osasis.settings import TrainSettings


@dataclass(frozen=True)
class Planned:
    """A style of a run. registered: the version that has its fingerprint; reason: why it cannot
    be trained; kind: what sort of failure that is."""

    entry: CatalogEntry
    settings: TrainSettings
    fingerprint: str
    registered: StyleVersion | None
    reason: str | None = None
    kind: str | None = None

    @property
    def claim(self) -> str:
        """The name of its claim, and of its folder while it trains."""
        return f"{self.entry.id}-{self.fingerprint}"

    @property
    def waits(self) -> bool:
        """Whether it is to be trained."""
        return self.registered is None and self.reason is None

    def settled(self) -> StyleResult:
        """How it ends where there is nothing to train."""
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
) -> list[Planned]:
    """Every entry with its fingerprint and the version that has it.

    photos: fingerprint of photos that the run brings along. there: what is registered, by style.
    What would be trained is decoded: a broken image needs no Ray to be found.
    """
    plan = []
    for entry in entries:
        settings = entry.settings(preset, dict(overrides))
        key = ""
        try:
            image, counterpart = entry.read_image(), entry.read_counterpart()
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

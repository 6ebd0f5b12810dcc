"""What a run of training is to do: every style with its fingerprint, and what is there already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from factory.catalog import CatalogEntry
from factory.fingerprint import fingerprint
from factory.registry import CHAMPION, StyleVersion
from factory.results import StyleResult
from osasis.errors import UserError
from osasis.settings import TrainSettings


@dataclass(frozen=True)
class Planned:
    """A style of a run. registered: the version that has its fingerprint; reason: why it cannot
    be trained."""

    entry: CatalogEntry
    settings: TrainSettings
    fingerprint: str
    registered: StyleVersion | None
    reason: str | None = None

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
            return StyleResult(self.entry.id, "failed", reason=self.reason)
        aliases = self.registered.aliases
        alias = CHAMPION if CHAMPION in aliases else next(iter(aliases), None)
        return StyleResult(self.entry.id, "skipped", self.registered.version, alias=alias)


def make_plan(
    entries: Iterable[CatalogEntry],
    preset: str,
    overrides: Mapping[str, Any],
    base: str,
    photos: str | None,
    there: Mapping[str, list[StyleVersion]],
) -> list[Planned]:
    """Every entry with its fingerprint and the version that has it.

    base, photos: fingerprints of the base, and of photos that the run brings along. there: what
    is registered, by style.
    """
    plan = []
    for entry in entries:
        settings = entry.settings(preset, dict(overrides))
        try:
            image, counterpart = entry.read_image(), entry.read_counterpart()
        except UserError as e:
            plan.append(Planned(entry, settings, "", None, str(e)))
            continue
        key = fingerprint(image, counterpart, base, settings.to_dict(), photos)
        found = (v for v in there.get(entry.id, []) if v.fingerprint == key)
        plan.append(Planned(entry, settings, key, next(found, None)))
    return plan

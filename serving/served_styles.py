"""Styles that are served: follows the registry's champions in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.core.home import Home
from factory.registry import CHAMPION, KIND_TAG, Registry, StyleVersion, list_versions
from osasis.errors import UserError, did_you_mean

# Changes that are looked up one by one.
FEW = 10


@dataclass(frozen=True)
class Listed:
    """A style as listed. problem: why it cannot be used, if so."""

    version: StyleVersion
    problem: str | None = None

    @property
    def tags(self) -> list[str]:
        return [t for t in self.version.tags.get("tags", "").split(",") if t]

    def row(self) -> dict[str, Any]:
        v = self.version
        return {
            "id": v.style,
            "version": v.version,
            "reference": v.reference,
            "aliases": list(v.aliases),
            "tags": self.tags,
            "licence": v.tags.get("licence", ""),
            "created_ms": v.created_ms,
            "preview": f"/v1/styles/{v.style}/preview?version={v.version}",
            "usable": self.problem is None,
            "problem": self.problem,
        }


class StyleCatalog:
    """The current version of every style of one base. ``poll`` asks once; ``start`` keeps on."""

    def __init__(self, home: Home, base: str) -> None:
        self.registry, self.base = Registry(home), base
        self.styles: dict[str, Listed] = {}
        self.error: str | None = None
        self._seen: dict[str, tuple[int, dict[str, int]]] = {}
        self._stop = threading.Event()

    def start(self, seconds: float, changed: Callable[[], None] = lambda: None) -> None:
        def follow() -> None:
            while not self._stop.wait(seconds):
                if self.poll():
                    changed()

        threading.Thread(target=follow, name="registry", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def poll(self) -> bool:
        """Look at the registry; whether anything changed. A registry that is out of reach leaves
        the styles as they are known."""
        try:
            current = self._current()
            new = {
                name: self.styles[name]
                for name, seen in current.items()
                if self._seen.get(name) == seen and name in self.styles
            }
            changes = {name: seen[0] for name, seen in current.items() if name not in new}
            new |= {v.style: self._listed(v) for v in self._versions(changes)}
        except Exception as e:
            self.error = " ".join(str(e).split())[:200]
            return False
        changed = current != self._seen
        self.styles, self._seen, self.error = dict(sorted(new.items())), current, None
        return changed

    def _versions(self, wanted: dict[str, int]) -> list[StyleVersion]:
        """Versions of styles by number. Many are looked up together: one by one, a thousand styles
        take minutes."""
        if len(wanted) <= FEW:
            return [self.registry.get(name, str(number)) for name, number in wanted.items()]
        every = list_versions(self.registry.home)
        return [v for n, number in wanted.items() for v in every.get(n, ()) if v.version == number]

    def _current(self) -> dict[str, tuple[int, dict[str, int]]]:
        """The champion's number of every style, the newest where there is none, and its aliases;
        one query a thousand styles."""
        found: dict[str, tuple[int, dict[str, int]]] = {}
        token = None
        while True:
            page = self.registry.client.search_registered_models(
                filter_string=f"tags.`{KIND_TAG}` = 'style'", max_results=1000, page_token=token
            )
            for model in page:
                versions = [int(v.version) for v in model.latest_versions]
                aliases = {name: int(number) for name, number in model.aliases.items()}
                if (champion := aliases.get(CHAMPION)) is not None or versions:
                    found[model.name] = (champion or max(versions), aliases)
            token = page.token
            if not token:
                return found

    def _listed(self, version: StyleVersion) -> Listed:
        if version.base and version.base != self.base:
            return Listed(version, f"it belongs to another base ({version.base})")
        return Listed(version)

    def resolve(self, reference: str) -> StyleVersion:
        """``a``, ``a@alias`` or ``a:3``; plain ``a`` from what the last poll saw. Raises UserError
        for what is not there or belongs to another base."""
        listed = self.styles.get(reference)
        if listed is None:
            name = reference.partition("@")[0].partition(":")[0]
            if name == reference or name not in self.styles:
                hint = did_you_mean(name, self.styles) or "; GET /v1/styles lists them"
                raise UserError(f"unknown style {reference!r}{hint}")
            listed = self._listed(self.registry.resolve(reference))
        if listed.problem:
            raise UserError(f"style {reference!r} cannot be used: {listed.problem}")
        return listed.version

    def folder(self, version: StyleVersion) -> Path:
        return version.folder()

    def page(
        self, offset: int, limit: int, text: str = "", tags: list[str] | None = None
    ) -> tuple[int, list[Listed]]:
        """How many styles match, and one page of them. text: in the id, tags or licence."""
        words = text.lower().split()
        matching = [
            s
            for s in self.styles.values()
            if set(tags or []) <= set(s.tags)
            and all(
                w in " ".join([s.version.style, *s.tags, s.version.tags.get("licence", "")]).lower()
                for w in words
            )
        ]
        return len(matching), matching[offset : offset + limit]

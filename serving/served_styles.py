"""The served styles: a thread polls the registry for each style's champion."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from factory.core.home import Home
from factory.registry import CHAMPION, Registry, StyleVersion, list_versions
from osasis.errors import UserError, did_you_mean
from serving.made_styles import MadeStyles
from serving.schemas import StyleRow

# Up to this many changed versions are looked up with one query each.
MAX_SINGLE_QUERIES = 10


@dataclass(frozen=True)
class ListedStyle:
    """A registered style. problem: why requests cannot use it, or None."""

    version: StyleVersion
    problem: str | None = None

    @property
    def tags(self) -> list[str]:
        return [t for t in self.version.tags.get("tags", "").split(",") if t]

    @property
    def licence(self) -> str:
        return self.version.tags.get("licence", "")

    def row(self) -> StyleRow:
        v = self.version
        return StyleRow(
            id=v.style,
            version=v.version,
            reference=v.reference,
            aliases=list(v.aliases),
            tags=self.tags,
            licence=self.licence,
            created_ms=v.created_ms,
            preview=f"/v1/styles/{v.style}/preview?version={v.version}",
            usable=self.problem is None,
            problem=self.problem,
        )


class StyleCatalog:
    """The current version of every registered style.

    base: fingerprint of the served base; styles of other bases are listed as not usable. made: the
    styles that were made from images, which are not listed.
    ``error`` is the last poll's failure, or None.
    """

    def __init__(self, home: Home, base: str, made: MadeStyles | None = None) -> None:
        self.registry, self.base, self.made = Registry(home), base, made
        self.styles: dict[str, ListedStyle] = {}
        self.error: str | None = None
        self._seen: dict[str, tuple[int, dict[str, int]]] = {}

    def start(self, seconds: float, changed: Callable[[], None] = lambda: None) -> None:
        """Poll every ``seconds`` in a daemon thread; call ``changed`` after each change."""

        def run() -> None:
            while True:
                time.sleep(seconds)
                if self.poll():
                    changed()

        threading.Thread(target=run, name="registry", daemon=True).start()

    def poll(self) -> bool:
        """Read the registry once. Returns whether a style changed; on failure keeps the styles and
        sets ``error``."""
        try:
            current = self._current()
            new = {
                name: self._listed(self.styles[name].version)
                for name, seen in current.items()
                if self._seen.get(name) == seen and name in self.styles
            }
            outdated = {name: seen[0] for name, seen in current.items() if name not in new}
            new |= {v.style: self._listed(v) for v in self._versions(outdated)}
        except Exception as e:
            self.error = " ".join(str(e).split())[:200]
            return False
        changed = current != self._seen
        self.styles, self._seen, self.error = dict(sorted(new.items())), current, None
        return changed

    def _versions(self, numbers: dict[str, int]) -> list[StyleVersion]:
        """Versions by style and number. Many are read with one query, since a thousand single
        queries take minutes."""
        if len(numbers) <= MAX_SINGLE_QUERIES:
            return [self.registry.get(name, str(number)) for name, number in numbers.items()]
        every = list_versions(self.registry.home)
        return [v for n, number in numbers.items() for v in every.get(n, ()) if v.version == number]

    def _current(self) -> dict[str, tuple[int, dict[str, int]]]:
        """By style: number of the champion, else of the newest version, and all aliases. One query
        per 1000 styles."""
        found: dict[str, tuple[int, dict[str, int]]] = {}
        for model in self.registry.models():
            versions = [int(v.version) for v in model.latest_versions]
            aliases = {name: int(number) for name, number in model.aliases.items()}
            if (champion := aliases.get(CHAMPION)) is not None or versions:
                found[model.name] = (champion or max(versions), aliases)
        return found

    def _listed(self, version: StyleVersion) -> ListedStyle:
        if version.base and version.base != self.base:
            return ListedStyle(version, f"it belongs to another base ({version.base})")
        if version.in_home and not version.folder().is_dir():
            return ListedStyle(version, "its files are missing")
        return ListedStyle(version)

    def resolve(self, reference: str) -> StyleVersion:
        """The version of ``a``, ``a@alias`` or ``a:3``; ``a`` is the version of the last poll.

        Raises UserError for an unknown style and for a style of another base.
        """
        listed = self.styles.get(reference)
        if listed is None and self.made is not None:
            made = self.made.find(reference.removesuffix(":1"))
            if made is not None:
                return made
        if listed is None:
            name = reference.partition("@")[0].partition(":")[0]
            if name == reference or name not in self.styles:
                hint = did_you_mean(name, self.styles) or "; GET /v1/styles lists them"
                raise UserError(f"unknown style {reference!r}{hint}")
            listed = self._listed(self.registry.resolve(reference))
        if listed.problem:
            raise UserError(f"style {reference!r} cannot be used: {listed.problem}")
        return listed.version

    def page(
        self, offset: int, limit: int, text: str, tags: list[str]
    ) -> tuple[int, list[ListedStyle]]:
        """Number of matching styles, and one page of them.

        text: words to find in id, tags and licence. tags: all must be present.
        """
        words = text.lower().split()
        matching = [
            s
            for s in self.styles.values()
            if set(tags) <= set(s.tags)
            and all(w in " ".join([s.version.style, *s.tags, s.licence]).lower() for w in words)
        ]
        return len(matching), matching[offset : offset + limit]

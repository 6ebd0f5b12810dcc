"""From what a user calls a style to one registered version of it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from factory.core.home import Home
from factory.registry.versions import CHAMPION, StyleVersion, current_of
from osasis.errors import UserError, did_you_mean


class Resolver(ABC):
    """Finds versions by name, number, alias and fingerprint."""

    home: Home

    @abstractmethod
    def styles(self) -> list[str]:
        """Ids of all registered styles, sorted."""

    @abstractmethod
    def versions(self, style: str) -> list[StyleVersion]:
        """All versions of a style, newest first. Raises UserError where there is no such style."""

    def get(self, style: str, version: str = CHAMPION) -> StyleVersion:
        """A version by its number or alias. Raises UserError naming what there is."""
        versions = self.versions(style)
        for v in versions:
            if version == str(v.version) or version in v.aliases:
                return v
        known = ", ".join(
            f"{v.version}" + (f" ({', '.join(v.aliases)})" if v.aliases else "") for v in versions
        )
        raise UserError(f"style {style!r} has no version {version!r}: there are {known}")

    def current(self, style: str) -> StyleVersion:
        """The champion; the newest version where no version is champion."""
        return current_of(self.versions(style))

    def resolve(self, reference: str) -> StyleVersion:
        """``a``, ``a@alias`` or ``a:3`` to one version; plain ``a`` is its champion."""
        for mark in ("@", ":"):
            name, found, rest = reference.partition(mark)
            if found:
                return self.get(name, rest)
        return self.get(reference)

    def find(self, style: str, fingerprint: str) -> StyleVersion | None:
        """The version with this fingerprint, if it is registered."""
        try:
            versions = self.versions(style)
        except UserError:
            return None
        return next((v for v in versions if v.fingerprint == fingerprint), None)

    def unknown(self, style: str) -> UserError:
        """The error that there is no such style, with what there is."""
        names = self.styles()
        if not names:
            return UserError(
                f"unknown style {style!r}: none is registered in {self.home.path} "
                "(train some with `style-factory train CATALOG`)"
            )
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        hint = did_you_mean(style, names) or f" (registered: {shown})"
        return UserError(f"unknown style {style!r}{hint}")

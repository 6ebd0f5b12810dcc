"""Resolution of references such as ``oil@champion`` to registered versions."""

from __future__ import annotations

from abc import ABC, abstractmethod

from factory.core.home import Home
from factory.registry.versions import CHAMPION, StyleVersion
from osasis.errors import UserError, did_you_mean


class Resolver(ABC):
    """Finds versions by name, number, alias and fingerprint."""

    home: Home

    @abstractmethod
    def styles(self) -> list[str]:
        """Ids of all registered styles, sorted."""

    @abstractmethod
    def versions(self, style: str) -> list[StyleVersion]:
        """All versions of a style, newest first. Raises UserError for an unknown style."""

    def get(self, style: str, version: str = CHAMPION) -> StyleVersion:
        """A version by its number or alias. Raises UserError that lists the versions."""
        versions = self.versions(style)
        for v in versions:
            if version == str(v.version) or version in v.aliases:
                return v
        known = ", ".join(
            f"{v.version}" + (f" ({', '.join(v.aliases)})" if v.aliases else "") for v in versions
        )
        raise UserError(f"style {style!r} has no version {version!r}: there are {known}")

    def resolve(self, reference: str) -> StyleVersion:
        """The version that ``a`` (its champion), ``a@alias`` or ``a:3`` names. Raises UserError."""
        for mark in ("@", ":"):
            name, found, rest = reference.partition(mark)
            if found:
                return self.get(name, rest)
        return self.get(reference)

    def find(self, style: str, fingerprint: str) -> StyleVersion | None:
        """The version with this fingerprint; None where no version has it."""
        try:
            versions = self.versions(style)
        except UserError:
            return None
        return next((v for v in versions if v.fingerprint == fingerprint), None)

    def unknown_style(self, style: str) -> UserError:
        """The error for an unknown style; names similar or registered styles."""
        names = self.styles()
        if not names:
            return UserError(
                f"unknown style {style!r}: none is registered in {self.home.location} "
                "(train some with `style-factory train CATALOG`)"
            )
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        hint = did_you_mean(style, names) or f" (registered: {shown})"
        return UserError(f"unknown style {style!r}{hint}")

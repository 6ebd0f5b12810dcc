"""Errors that are shown to the user as one line without a traceback."""

from __future__ import annotations

import difflib
from typing import Any


class UserError(Exception):
    """Invalid input from the user.

    The message is one line that names the file or field, the value found, the allowed values and
    the remedy.
    """


class DivergedError(UserError):
    """A loss, gradient or weight became infinite or NaN. The message names the iteration."""


class ImageError(UserError):
    """An image that cannot be used. name: of the file, as displayed. reason: the cause."""

    def __init__(self, name: str, reason: str) -> None:
        # Exceptions are unpickled from args.
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class FitError(ImageError):
    """A readable photo that cannot be placed in the base's square as an option asks. option: its
    name."""

    def __init__(self, name: str, reason: str, option: str) -> None:
        super().__init__(name, reason)
        self.args = (name, reason, option)
        self.option = option


def did_you_mean(word: str, known: Any) -> str:
    """A hint with the nearest known words, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f" (nearest: {', '.join(near)})" if near else ""

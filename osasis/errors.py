"""Errors that a user reads: one line, no traceback."""

from __future__ import annotations

import difflib
from typing import Any


class UserError(Exception):
    """A mistake in what the user gave.

    Its text is one line that names the file or field, what was found, what is allowed and what
    to do.
    """


class DivergedError(UserError):
    """A loss, gradient or weight became infinite or NaN. The text names the iteration."""


class ImageError(UserError):
    """An image that cannot be used. ``name`` is the file as shown, ``reason`` why."""

    def __init__(self, name: str, reason: str) -> None:
        # Both go to args, so that the error survives the trip between processes.
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def did_you_mean(word: str, known: Any) -> str:
    """A hint naming the nearest of the known words, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f" (nearest: {', '.join(near)})" if near else ""

"""Lookup of a home's text edits."""

from __future__ import annotations

from factory.core.home import Home
from osasis.errors import UserError, did_you_mean
from osasis.text_edit import TextEdit, load_text_edit


def find_text_edit(home: Home, name: str, base: str) -> TextEdit:
    """Load a text edit of the base with this fingerprint.

    Raises UserError where no text edit has the name, or where the text edit has another base.
    """
    names = sorted(p.parent.name for p in home.text_edits.glob("*/text_edit.json"))
    if name not in names:
        raise UserError(
            f"unknown text edit {name!r}: there are {', '.join(names) or 'none'}"
            + did_you_mean(name, names)
        )
    return load_text_edit(home.text_edits / name, base)

"""Text edits of an installation: directions of z_in, made once and mixed by name."""

from __future__ import annotations

from pathlib import Path

import torch

from factory.bases import check_name
from factory.home import Home
from osasis.base import load_base, photo_tensor
from osasis.errors import UserError
from osasis.images import find_images
from osasis.settings import did_you_mean
from osasis.squares import load_square
from osasis.stylize import encode
from osasis.text_edit import TextEdit, load_text_edit, optimise_text_edit, save_text_edit

PHOTOS = 8


def make_text_edit(
    home: Home,
    name: str,
    source: str,
    target: str,
    *,
    base: str | None = None,
    photos: Path | None = None,
    iterations: int = 100,
    seed: int = 0,
) -> TextEdit:
    """Optimise a direction from ``source`` to ``target`` over a few photos and keep it.

    photos: a folder; None takes the base's own. Raises UserError.
    """
    check_name(name, "text edit")
    loaded = load_base(home.base_folder(base))
    if photos is not None:
        size = loaded.config.image_size
        batch = torch.stack([load_square(p, size) for p in find_images(photos)[:PHOTOS]])
    elif loaded.photos is not None:
        batch = photo_tensor(loaded.photos[:PHOTOS])
    else:
        raise UserError(f"base {loaded.name!r} has no photos of its own: give a folder (--photos)")
    encodings = encode(loaded, batch, steps=20)
    edit = optimise_text_edit(loaded, encodings, source, target, iterations=iterations, seed=seed)
    save_text_edit(home.text_edits / name, edit)
    return edit


def find_text_edit(home: Home, name: str, base: str) -> TextEdit:
    """A kept direction of the base with this fingerprint. Raises UserError naming what there is."""
    names = sorted(p.parent.name for p in home.text_edits.glob("*/text_edit.json"))
    if name not in names:
        raise UserError(
            f"unknown text edit {name!r}: there are {', '.join(names) or 'none'}"
            + did_you_mean(name, names)
        )
    return load_text_edit(home.text_edits / name, base)

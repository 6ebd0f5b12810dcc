"""Text edits of OSASIS: directions of z_in that a mix applies by name."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from factory.core.bases import check_name
from factory.core.home import Home
from factory.core.local_copy import local_copy, upload
from factory.core.stores import open_store
from osasis.bundles.base import load_base
from osasis.encode import EncodePlan, encode
from osasis.errors import UserError, did_you_mean
from osasis.images.listing import find_images
from osasis.images.tensors import from_uint8, load_square
from osasis.text_edit import (
    TEXT_EDIT_JSON,
    EditOptions,
    TextEdit,
    load_text_edit,
    optimise_text_edit,
    save_text_edit,
)

MAX_PHOTOS = 8


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
    """Optimise a direction of z_in from text ``source`` to text ``target``, and save it.

    photos: a folder; None selects the base's own photos. The first ``MAX_PHOTOS`` are used.
    Raises UserError.
    """
    check_name(name, "text edit")
    loaded = load_base(home.base_folder(base))
    if photos is not None:
        size = loaded.config.image_size
        batch = torch.stack([load_square(p, size) for p in find_images(photos)[:MAX_PHOTOS]])
    elif loaded.photos is not None:
        batch = from_uint8(loaded.photos[:MAX_PHOTOS])
    else:
        raise UserError(f"base {loaded.name!r} has no photos of its own: give a folder (--photos)")
    encodings = encode(loaded, batch, EncodePlan(0.5, 20, spacing="quadratic", solver="dpmpp_2m"))
    options = EditOptions(iterations=iterations, seed=seed)
    edit = optimise_text_edit(loaded, encodings, source, target, options)
    with tempfile.TemporaryDirectory() as folder:
        save_text_edit(Path(folder), edit)
        upload(Path(folder), open_store(home.shared(home.text_edits / name)), TEXT_EDIT_JSON)
    return edit


def text_edit_names(home: Home) -> list[str]:
    """The names of the home's text edits, sorted."""
    files = open_store(home.shared(home.text_edits)).list()
    return [n.partition("/")[0] for n in files if n.endswith(f"/{TEXT_EDIT_JSON}")]


def find_text_edit(home: Home, name: str, base: str) -> TextEdit:
    """Load a text edit of the base with this fingerprint.

    Raises UserError where no text edit has the name, or where the text edit has another base.
    """
    names = text_edit_names(home)
    if name not in names:
        raise UserError(
            f"unknown text edit {name!r}: there are {', '.join(names) or 'none'}"
            + did_you_mean(name, names)
        )
    return read_text_edit(home.shared(home.text_edits), name, base)


def read_text_edit(place: str, name: str, base: str) -> TextEdit:
    """Load a text edit of the base with this fingerprint. place: path or URI of the text edits."""
    return load_text_edit(local_copy(f"{place}/{name}", TEXT_EDIT_JSON), base)

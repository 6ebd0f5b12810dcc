"""Imports styles of other programs (``iter_N.pt``, LoRA files) into the registry."""

from __future__ import annotations

import tempfile
from pathlib import Path

from factory.core.bases import check_name
from factory.core.home import Home
from factory.methods import load_base
from factory.registry import Registry, StyleVersion
from osasis.storage import sha256_file, sha256_text


def import_style(
    home: Home,
    style_id: str,
    checkpoint: Path,
    image: Path,
    *,
    counterpart: Path | None = None,
    prompt: str | None = None,
    base: str | None = None,
    licence: str = "",
) -> StyleVersion:
    """Convert and register a style's file; returns the existing version of the same files.

    image: the style image. counterpart: its photo counterpart, for OSASIS; None stores the style
    image in its place. prompt: that of a LoRA's training, for DiffStyler. Raises UserError.
    """
    check_name(style_id, "style")
    registry = Registry(home)
    loaded = load_base(home.base_folder(base))
    fingerprint = ""
    if checkpoint.is_file() and image.is_file():
        parts = [loaded.fingerprint, sha256_file(checkpoint), sha256_file(image)]
        parts += [] if prompt is None else [prompt]
        fingerprint = sha256_text("/".join(parts))[:16]
        if (found := registry.find(style_id, fingerprint)) is not None:
            return found
    style, save = loaded.import_style(style_id, checkpoint, image, counterpart, prompt)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        return registry.register(
            style_id,
            Path(folder),
            fingerprint=fingerprint,
            base=loaded.fingerprint,
            params=style.settings.to_dict(),
            history=[],
            metrics={},
            tags={"base_name": loaded.name, "licence": licence, "imported": checkpoint.name},
        )

"""Converts registered full-rank styles to low-rank factors."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from factory.core.home import Home
from factory.methods import load_base, load_style
from factory.registry import CANDIDATE, Registry, StyleVersion
from factory.registry.versions import read_training
from osasis.errors import UserError
from osasis.storage import sha256_text


def compact_style(home: Home, reference: str, rank: int) -> tuple[StyleVersion, dict[str, Any]]:
    """Register a version's low-rank approximation as candidate; also returns rank and error.

    The version's metrics belong to the full-rank style and are not copied. Raises UserError where
    the style is of low rank already.
    """
    registry = Registry(home)
    version = registry.resolve(reference)
    if (base_folder := home.base_with(version.base)) is None:
        names = ", ".join(home.base_names())
        raise UserError(f"{version.reference}: its base {version.base} is not in the home, which "
                        f"has {names}; import that base first")  # fmt: skip
    base, folder = load_base(base_folder), version.folder()
    style = load_style(folder, base)
    if style.low_rank:
        raise UserError(f"{version.reference} is of low rank already; choose another version")
    small, save = base.compact(style, rank)
    fingerprint = sha256_text(f"{version.fingerprint}/{version.reference}/rank {rank}")[:16]
    small.info["fingerprint"] = fingerprint
    with tempfile.TemporaryDirectory() as place:
        save(Path(place), folder)
        made = registry.register(
            version.style,
            Path(place),
            fingerprint=fingerprint,
            base=version.base,
            params=small.settings.to_dict(),
            history=read_training(folder).get("history", []),
            metrics={},
            tags={**version.tags, "compact_of": version.reference},
            alias=CANDIDATE,
        )
    return made, {"rank": rank, "error": small.info["compact"]["error"]}

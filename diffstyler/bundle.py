"""A base's folder: base.json, beside a model in the diffusers layout.

This module reads and writes JSON only, so that listing bases needs no part of the extra
``diffstyler``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osasis.bundles.files import BASE_JSON
from osasis.storage import sha256_file, sha256_text, write_json

FORMAT = 1
METHOD = "diffstyler"
SHIPPED = Path(__file__).parent / "bases"


def write_base_json(
    folder: Path, *, name: str, image_size: int, preset: str, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Write base.json beside a model's files and return its content.

    image_size: side in pixels for which the model was trained. preset: with which its styles train
    by default. The fingerprint is a hash of all files of the model.
    """
    files = {
        str(path.relative_to(folder).as_posix()): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != BASE_JSON
    }
    info = {
        "format": FORMAT,
        "name": name,
        "method": METHOD,
        "image_size": image_size,
        "preset": preset,
        "files": files,
        "fingerprint": sha256_text(json.dumps(files, sort_keys=True))[:16],
        "provenance": dict(provenance),
    }
    write_json(folder / BASE_JSON, info)
    return info


def shipped_bases() -> dict[str, Path]:
    """Folders of the bases inside this package, by name."""
    return {p.parent.name: p.parent for p in sorted(SHIPPED.glob(f"*/{BASE_JSON}"))}

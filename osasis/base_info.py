"""What a base's folder says of itself, without loading it, nor torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from osasis.errors import UserError

FORMAT = 1
JSON_NAME = "base.json"
SHIPPED = Path(__file__).parent / "bases"


def shipped_bases() -> dict[str, Path]:
    """The bases inside this package, by name."""
    return {p.parent.name: p.parent for p in sorted(SHIPPED.glob(f"*/{JSON_NAME}"))}


def read_base_info(folder: Path) -> dict[str, Any]:
    """base.json of a folder. Raises UserError where it is no base or of another format."""
    path = folder / JSON_NAME
    if not path.is_file():
        raise UserError(f"{folder}: not a base (it has no {JSON_NAME})")
    try:
        info = json.loads(path.read_text())
    except json.JSONDecodeError:
        info = None
    if not isinstance(info, dict):
        raise UserError(f"{path}: not valid JSON; import the base again")
    if info.get("format") != FORMAT:
        raise UserError(
            f"{path}: base format {info.get('format')}; this version reads format {FORMAT}"
        )
    missing = [
        k for k in ("config", "guide", "perceptual", "files", "fingerprint") if k not in info
    ]
    kind = (info.get("guide") or {}).get("kind")
    if missing or kind not in ("statistics", "open_clip", "combined"):
        what = f"{missing[0]} is missing" if missing else f"guide.kind is {kind!r}"
        raise UserError(f"{path}: {what}; import the base again")
    return info

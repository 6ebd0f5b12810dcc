"""The JSON files of bases and styles, whatever their method."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osasis.errors import UserError
from osasis.storage import sha256_file

BASE_JSON, STYLE_JSON = "base.json", "style.json"
PREDICTOR_JSON = "predictor.json"
# Pictures of a style. Styles that do not train on photos have no counterpart.
STYLE_PNG, COUNTERPART_PNG = "style.png", "counterpart.png"
# The method of bases and styles that name none.
DEFAULT_METHOD = "osasis"
SHIPPED = Path(__file__).parents[1] / "bases"


def shipped_bases() -> dict[str, Path]:
    """Folders of the bases inside this package, by name."""
    return {p.parent.name: p.parent for p in sorted(SHIPPED.glob(f"*/{BASE_JSON}"))}


def method_name(info: Mapping[str, Any]) -> str:
    """The method that a base's or style's JSON names."""
    return str(info.get("method", DEFAULT_METHOD))


def read_base_json(folder: Path) -> dict[str, Any]:
    """Read base.json of any method. Raises UserError where it is missing or has no fingerprint."""
    path = folder / BASE_JSON
    if not path.is_file():
        raise UserError(f"{folder}: not a base (it has no {BASE_JSON})")
    info = read_json(path, "import the base again")
    if "fingerprint" not in info:
        raise UserError(f"{path}: fingerprint is missing; import the base again")
    return info


def verify_files(folder: Path, hashes: Mapping[str, str]) -> None:
    """Compare a base's files with their SHA-256 (a few milliseconds per megabyte).

    Raises UserError naming the missing or damaged file.
    """
    for name, digest in hashes.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing; import the base again")
        if sha256_file(path) != digest:
            raise UserError(f"{path}: its SHA-256 differs from {BASE_JSON}; import the base again")


def read_bundle_json(
    path: Path, format_number: int, keys: tuple[str, ...], remedy: str
) -> dict[str, Any]:
    """Read the JSON file of a base or style. Raises UserError, ending with ``remedy``."""
    info = read_json(path, remedy)
    if (found := info.get("format")) != format_number:
        raise UserError(f"{path}: format {found}; this version reads {format_number}; {remedy}")
    if missing := [key for key in keys if key not in info]:
        raise UserError(f"{path}: {missing[0]} is missing; {remedy}")
    return info


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Read a JSON object. Raises UserError, ending with ``remedy``."""
    try:
        info = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError):
        info = None
    if not isinstance(info, dict):
        raise UserError(f"{path}: not valid JSON; {remedy}")
    return info

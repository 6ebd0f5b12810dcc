"""Atomic writes of safetensors and JSON files, and SHA-256 digests."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file atomically (temporary file and rename) and create its folders.

    Raises OSError where writing fails; the temporary file is then deleted.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not derived from the name of the file, which may already have the maximum length.
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors to a safetensors file, atomically."""
    # Importing torch takes seconds; callers that only write JSON do not need it.
    from safetensors.torch import save

    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_atomic(path, save(plain, metadata))


def to_float16(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the floating-point tensors to float16."""
    return {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}


def write_json(path: Path, data: Any) -> None:
    """Write indented JSON with a final newline, atomically."""
    write_atomic(path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 hex digest of a file."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_text(text: str) -> str:
    """SHA-256 hex digest of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()

"""Atomic writes of safetensors and JSON files, and SHA-256 digests."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# The numbers of an OSError by which a file system says that a disk, or a user's share, is full.
FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFullError(OSError):
    """No room is left on a disk. The message names the folder, and what is free and needed."""

    def __str__(self) -> str:
        return str(self.strerror)


def disk_full(folder: str | os.PathLike[str], number: int, needed: int = 0) -> DiskFullError:
    """The error for a full disk. number: ENOSPC or EDQUOT. needed: bytes, where known."""
    place = Path(folder)
    while not place.exists() and place != place.parent:
        place = place.parent
    facts = [f"{_size(shutil.disk_usage(place).free)} free"] if number == errno.ENOSPC else []
    facts += [f"{_size(needed)} needed"] if needed else []
    what = "disk quota" if number == errno.EDQUOT else "disk"
    shown = f" ({', '.join(facts)})" if facts else ""
    return DiskFullError(number, f"the {what} of {folder} is full{shown}")


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{-(-count // 1000)} kB"


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file atomically (temporary file and rename) and create its folders.

    Raises DiskFullError, or another OSError, where writing fails; the temporary file is then
    deleted.
    """
    path = Path(path)
    # Not derived from the name of the file, which may already have the maximum length.
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(path)
    except BaseException as e:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(e, OSError) and e.errno in FULL:
            raise disk_full(path.parent, e.errno, len(data)) from e
        raise


def create_file(path: str | os.PathLike[str], data: bytes) -> bool:
    """Create a file that does not exist; of several callers at once, one succeeds.

    Needs no locks. Returns False where the file exists. A reader may see the file before its
    content. Raises DiskFullError.
    """
    path = Path(path)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    except OSError as e:
        if e.errno in FULL:
            raise disk_full(path.parent, e.errno, len(data)) from e
        raise
    try:
        with os.fdopen(descriptor, "wb") as f:
            f.write(data)
    except OSError as e:
        path.unlink(missing_ok=True)
        if e.errno in FULL:
            raise disk_full(path.parent, e.errno, len(data)) from e
        raise
    return True


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors to a safetensors file, atomically."""
    write_atomic(path, tensor_bytes(tensors, metadata))


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Tensors as a safetensors file."""
    # Importing torch takes seconds; callers that only write JSON do not need it.
    from safetensors.torch import save

    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    return save(plain, metadata)


def to_float16(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the floating-point tensors to float16."""
    return {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}


def write_json(path: Path, data: Any) -> None:
    """Write indented JSON with a final newline, atomically."""
    write_atomic(path, json_bytes(data))


def json_bytes(data: Any) -> bytes:
    """Indented JSON with a final newline."""
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()


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

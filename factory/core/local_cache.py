"""A cache on this machine for files of object stores that never change."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from factory.core.fsspec_systems import local_key
from osasis.storage import write_atomic

CACHE_VARIABLE = "STYLE_FACTORY_CACHE"
# Least recently opened files are deleted where the cache is larger.
MAX_BYTES = 4 << 30


def cache_folder() -> Path:
    """A folder of this user in the one that STYLE_FACTORY_CACHE names, else in that of temporary
    files.

    Only this user can read it. Where its place is taken by another user, it is a new temporary
    folder.
    """
    return _private_folder(os.environ.get(CACHE_VARIABLE, "").strip())


@functools.cache
def _private_folder(given: str) -> Path:
    folder = Path(given or tempfile.gettempdir()) / f"style-factory-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.lstat().st_uid != os.getuid():
        return Path(tempfile.mkdtemp(prefix="style-factory-"))
    # A process that worked while the folder was deleted has made it again, open to others.
    folder.chmod(0o700)
    return folder


def open_cached(location: str, fetch: Callable[[], bytes]) -> BinaryIO:
    """Open the copy of a file; ``fetch`` reads it where there is none.

    Several processes may do so at once. The file stays readable if the copy is deleted meanwhile.
    """
    path = cache_folder() / "objects" / local_key(location)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        write_atomic(path, fetch())
        file = path.open("rb")
        _limit(path)
    with contextlib.suppress(OSError):
        os.utime(path)
    return file


def _limit(newest: Path) -> None:
    """Delete the files that were opened least recently, except the newest, beyond MAX_BYTES."""
    files = []
    for path in newest.parent.iterdir():
        with contextlib.suppress(OSError):
            stat = path.stat()
            files.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= MAX_BYTES:
            break
        if path != newest:
            path.unlink(missing_ok=True)
            total -= size

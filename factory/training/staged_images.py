"""Local copies of a run's style images."""

from __future__ import annotations

import hashlib
import shutil
import threading
from pathlib import Path

from factory.core.uris import read_bytes
from osasis.storage import write_atomic


class StagedImages:
    """Copies of style images in a folder, named by the SHA-256 of their bytes.

    The first ``read`` of a location copies the file; later reads return the copy. Catalog check,
    fingerprint and training therefore use the same bytes even if the file changes. Thread-safe.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hashes: dict[str, str] = {}
        self._lock = threading.Lock()

    def read(self, location: str) -> bytes:
        """The bytes of a path or URI. Raises UserError if the file cannot be read."""
        if location in self._hashes:
            return self.path(location).read_bytes()
        data = read_bytes(location)
        name = hashlib.sha256(data).hexdigest()
        write_atomic(self.folder / name, data)
        with self._lock:
            # If two threads read the same location, the first copy is used.
            first = self._hashes.setdefault(location, name)
        return data if first == name else self.path(location).read_bytes()

    def path(self, location: str) -> Path:
        """Path of the copy. Raises KeyError for a location that has not been read."""
        return self.folder / self._hashes[location]

    def delete(self) -> None:
        """Delete every copy."""
        shutil.rmtree(self.folder, ignore_errors=True)

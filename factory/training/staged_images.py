"""Local copies of a run's style images."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import threading
from pathlib import Path

from factory.core.object_store import StoreError
from factory.core.stores import local_folder, open_store
from factory.core.uris import read_bytes
from osasis.storage import DiskFullError, write_atomic


class StagedImages:
    """Copies of style images in a folder, named by the SHA-256 of their bytes.

    The first ``read`` of a location copies the file; later reads return the copy. Catalog check,
    fingerprint and training therefore use the same bytes even if the file changes. On a full disk
    the copies stay in memory: a run that trains no style needs no file. Thread-safe.
    """

    def __init__(self, folder: Path, location: str | None = None) -> None:
        """folder: on this machine. location: path or URI of the folder for other machines, if it
        is another."""
        self.folder, self.location = folder, location or str(folder)
        self._hashes: dict[str, str] = {}
        self._in_memory: dict[str, bytes] = {}
        self._full: DiskFullError | None = None
        self._lock = threading.Lock()

    def read(self, location: str) -> bytes:
        """The bytes of a path or URI. Raises UserError if the file cannot be read."""
        if location in self._hashes:
            return self._copy(self._hashes[location])
        data = read_bytes(location)
        name = hashlib.sha256(data).hexdigest()
        try:
            write_atomic(self.folder / name, data)
        except DiskFullError as e:
            self._full, self._in_memory[name] = e, data
        with self._lock:
            # If two threads read the same location, the first copy is used.
            first = self._hashes.setdefault(location, name)
        return data if first == name else self._copy(first)

    def _copy(self, name: str) -> bytes:
        return self._in_memory.get(name) or (self.folder / name).read_bytes()

    def path(self, location: str) -> Path:
        """Path of the copy. Raises KeyError for a location that has not been read.

        Raises DiskFullError for a copy that the disk had no room for.
        """
        name = self._hashes[location]
        if self._full is not None and name in self._in_memory:
            raise self._full
        return self.folder / name

    def share(self, location: str) -> str:
        """Path or URI, for other machines, of the copy of ``location``. Raises as ``path``."""
        path = self.path(location)
        store = open_store(self.location)
        if local_folder(store) is None and store.changed(path.name) is None:
            store.write(path.name, path.read_bytes())
        return f"{self.location}/{path.name}"

    def delete(self) -> None:
        """Delete every copy."""
        store = open_store(self.location)
        if local_folder(store) is None:
            with contextlib.suppress(StoreError):
                store.delete_folder("")
        shutil.rmtree(self.folder, ignore_errors=True)

"""Folders that one process at a time works in, and that the next one may continue elsewhere."""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from factory.core.local_cache import cache_folder
from factory.core.local_copy import download, upload
from factory.core.stores import Location, Store, local_folder, open_store

WORK = "work"
# Folders of killed processes, in which no file has changed for this long, are deleted.
ABANDONED_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class WorkFolder:
    """A folder by path or URI, and where its files are on this machine.

    For a folder on a file system ``path`` is the folder itself, and there is nothing to fetch or
    to publish. For one in a store ``path`` is a new folder of this object's own: another job on
    this machine may take the work over. All methods raise StoreError and DiskFullError.
    """

    store: Store
    path: Path

    @classmethod
    def at(cls, location: Location) -> WorkFolder:
        store = open_store(location)
        path = local_folder(store)
        if path is None:
            path = cache_folder() / WORK / uuid.uuid4().hex
            _delete_abandoned(path.parent)
        return cls(store, path)

    @property
    def is_remote(self) -> bool:
        return local_folder(self.store) is None

    def fetch(self, skip: Collection[str] = ()) -> None:
        """Replace this machine's files by those of the store: another machine may have worked.

        skip: files, and folders at the top, to leave out.
        """
        if self.is_remote:
            shutil.rmtree(self.path, ignore_errors=True)
            download(self.store, self.path, skip)

    def publish(self, name: str) -> None:
        """Write one file to the store."""
        if self.is_remote:
            self.store.write(name, (self.path / name).read_bytes())

    def publish_all(self, last: str, skip: Collection[str] = ()) -> None:
        """Write the files to the store. last: the file that makes them a whole. skip: see fetch."""
        if self.is_remote:
            upload(self.path, self.store, last, skip)

    def delete(self) -> None:
        """Delete the folder, in the store and on this machine."""
        if self.is_remote:
            self.store.delete_folder("")
        shutil.rmtree(self.path, ignore_errors=True)

    def drop_local(self) -> None:
        """Delete this machine's files of a folder in a store."""
        if self.is_remote:
            shutil.rmtree(self.path, ignore_errors=True)


def _delete_abandoned(place: Path) -> None:
    """Delete the work folders of processes that were killed."""
    for folder in place.glob("*"):
        with contextlib.suppress(OSError):
            changed = max(p.stat().st_mtime for p in [folder, *folder.rglob("*")])
            if time.time() - changed > ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)

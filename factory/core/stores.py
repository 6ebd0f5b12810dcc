"""One interface for folders and object stores: whole files, without rename or append.

Code above this module writes a file whole, creates it where it does not exist, lists and deletes.
Both kinds of store do each of these in one step, so that a reader never sees a part of a file.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote

from factory.core.fsspec_systems import PACKAGES, can_open
from factory.core.local_store import LocalStore
from factory.core.object_store import ObjectStore
from factory.core.uris import is_local_uri, is_uri, local_path, redact
from osasis.errors import UserError

# A path or URI.
Location = str | os.PathLike[str]


class Store(Protocol):
    """Files below a folder or prefix, by their relative names with ``/``.

    Missing files raise FileNotFoundError, full disks DiskFullError, stores that refuse or do not
    answer StoreError.
    """

    @property
    def location(self) -> str:
        """The path or URI, for ``open_store``."""

    @property
    def look_seconds(self) -> float:
        """Least time between two looks at a file that may have changed: looks may cost money."""

    @property
    def longest_name(self) -> int:
        """Bytes that a file name may have."""

    def within(self, folder: str) -> Store:
        """The store of a folder of this one."""

    def read(self, name: str, limit: int | None = None) -> bytes:
        """The bytes of a file, of an object in one request. limit: read no more bytes."""

    def open(self, name: str) -> BinaryIO:
        """A file that never changes, for reading parts of it; of a store, a cached copy."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole, in place of one that exists."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that does not exist; of several callers at once, one succeeds.

        Returns False where the file exists.
        """

    def delete(self, names: Iterable[str]) -> None:
        """Delete files; missing ones are no error."""

    def delete_folder(self, folder: str) -> None:
        """Delete all files below a folder, to which nobody writes any more."""

    def list(self, folder: str = "") -> list[str]:
        """The sorted names of all files below a folder; none where it does not exist."""

    def changed(self, name: str) -> float | None:
        """When a file was last written, in seconds by the store's clock; None if it is missing."""

    def touch(self, name: str) -> None:
        """Set the last change of an empty file to now, by the store's clock."""

    def hold(self, name: str) -> None:
        """Lock a file until ``let_go`` or the end of the process, where the store has locks."""

    def let_go(self, name: str) -> None: ...

    def is_held(self, name: str) -> bool:
        """Whether another process surely holds the lock of a file."""

    def sweep(self) -> None:
        """Delete what killed writers have left behind."""

    def name_of(self, name: bytes) -> str:
        """A file name, which need not be UTF-8, as the store can hold it."""


def open_store(location: Location) -> Store:
    """The store of a path, a ``file://`` URI or an object store's URI.

    Raises UserError for a URI with credentials or options, whose message shows neither, and for
    one that cannot be written to.
    """
    text = os.fspath(location)
    if not is_uri(text):
        return LocalStore(Path(text))
    if is_local_uri(text):
        return LocalStore(Path(local_path(text)))
    shown = redact(text)
    if shown != text:
        package = PACKAGES.get(text.partition("://")[0])
        variables = f" ({package.variables})" if package else ""
        raise UserError(
            f"{shown}: a location that is written to takes no user, password or options; set "
            f"credentials, region and endpoint in the environment{variables}"
        )
    if not text.partition("://")[2].strip("/"):
        raise UserError(f"{text}: names no bucket; write {text.rstrip('/:')}://BUCKET/PREFIX")
    return _object_store(text)


def read_shared(location: Location) -> bytes:
    """The bytes of a file by path or URI. Raises as ``Store``."""
    folder, _, name = os.fspath(location).rpartition("/")
    return open_store(folder).read(name)


def object_at(uri: str) -> tuple[Store, str] | None:
    """The store and name of an object that the package of its scheme can read in one request.

    None for a URI of another scheme or with options, and where the package is missing.
    """
    if redact(uri) != uri or not can_open(uri.partition("://")[0]):
        return None
    # The bucket's store: names of objects may have empty parts.
    scheme, _, rest = uri.partition("://")
    bucket, _, name = rest.partition("/")
    return open_store(f"{scheme}://{bucket}"), unquote(name)


_object_store = functools.lru_cache(maxsize=64)(ObjectStore)


def local_folder(store: Store) -> Path | None:
    """The folder of a store on this machine's file system; None for an object store."""
    return store.path if isinstance(store, LocalStore) else None

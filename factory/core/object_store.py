"""A prefix of an object store as a store: whole objects, each written by one request.

The packages of fsspec access the stores. They take credentials, region and endpoint from the
environment, the user's configuration files or the platform; none stands in a location.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, unquote

from factory.core.endpoints import check_endpoint
from factory.core.local_cache import open_cached
from osasis.errors import UserError

# Package and options by scheme. max_concurrency: a read is one request, without asking for the
# size first.
SCHEMES: dict[str, tuple[str, dict[str, Any]]] = {
    "s3": ("s3fs", {"max_concurrency": 1, "use_listings_cache": False}),
}
# A state that is looked at again and again is read at most this often: each look is a request.
LOOK_SECONDS = 4.0
# Bytes of a name between slashes: outputs can then be copied to a folder.
LONGEST_NAME = 255
# Bytes of an object's name with the prefix.
LONGEST_KEY = 1024
REQUESTS_AT_ONCE = 16
T = TypeVar("T")


def can_open(scheme: str) -> bool:
    """Whether the package for a scheme is installed; False for other schemes."""
    return scheme in SCHEMES and importlib.util.find_spec(SCHEMES[scheme][0]) is not None


class StoreError(UserError, OSError):
    """A store refuses a request or does not answer. The message names the object and the cause."""


class ObjectStore:
    """The store of a prefix, ``scheme://bucket/prefix``. See ``factory.core.stores.Store``."""

    look_seconds = LOOK_SECONDS
    longest_name = LONGEST_NAME

    def __init__(self, location: str) -> None:
        """Raises UserError for a scheme that is not supported, and where a package is missing."""
        self.location = location.rstrip("/")
        self.scheme, _, root = self.location.partition("://")
        self._root = unquote(root)
        if self.scheme not in SCHEMES:
            raise UserError(
                f"{location}: {self.scheme}:// cannot be written to; give a folder, or a URI that "
                f"starts with {' or '.join(f'{s}://' for s in SCHEMES)}"
            )
        package = SCHEMES[self.scheme][0]
        if not can_open(self.scheme):
            raise UserError(
                f"{location}: {self.scheme}:// needs the package {package}; install "
                f"style-factory[{self.scheme}]"
            )

    @cached_property
    def _system(self) -> Any:
        import fsspec

        check_endpoint(self.scheme)
        return fsspec.filesystem(self.scheme, **SCHEMES[self.scheme][1])

    def within(self, folder: str) -> ObjectStore:
        return ObjectStore(f"{self.location}/{quote(folder)}")

    def read(self, name: str, limit: int | None = None) -> bytes:
        span = {} if limit is None else {"start": 0, "end": limit}
        return bytes(self._call("read", name, lambda fs, key: fs.cat_file(key, **span)))

    def open(self, name: str) -> BinaryIO:
        return open_cached(f"{self.location}/{name}", lambda: self.read(name))

    def write(self, name: str, data: bytes) -> None:
        size = len(f"{self._root}/{name}".partition("/")[2].encode())
        if size > LONGEST_KEY:
            text = f"the object's name has {size} bytes; a store allows {LONGEST_KEY}"
            raise OSError(errno.ENAMETOOLONG, text)
        try:
            self._call("write", name, lambda fs, key: fs.pipe_file(key, data))
        except FileNotFoundError:
            raise self._no_bucket() from None

    def create(self, name: str, data: bytes) -> bool:
        try:
            self._call("create", name, lambda fs, key: fs.pipe_file(key, data, mode="create"))
        except FileExistsError:
            return False
        except FileNotFoundError:
            raise self._no_bucket() from None
        return True

    def delete(self, names: Iterable[str]) -> None:
        def delete(name: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._call("delete", name, lambda fs, key: fs.rm_file(key))

        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            list(pool.map(delete, names))

    def delete_folder(self, folder: str) -> None:
        self.delete(self.list(folder))

    def list(self, folder: str = "") -> list[str]:
        found = self._call("list", folder, lambda fs, key: fs.find(key))
        start = len(self._root) + 1
        return sorted(key[start:] for key in found if not key.endswith("/"))

    def changed(self, name: str) -> float | None:
        try:
            when = self._call("read", name, lambda fs, key: fs.modified(key))
        except FileNotFoundError:
            return None
        return float(when.timestamp())

    def touch(self, name: str) -> None:
        self.write(name, b"")

    def hold(self, name: str) -> None:
        """Object stores have no locks: heartbeats alone tell that a holder lives."""

    def let_go(self, name: str) -> None:
        pass

    def is_held(self, name: str) -> bool:
        return False

    def sweep(self) -> None:
        """An object appears whole or not at all."""

    def name_of(self, name: bytes) -> str:
        return name.decode("utf-8", "backslashreplace")

    def _call(self, what: str, name: str, request: Callable[[Any, str], T]) -> T:
        """Send a request about an object. Raises StoreError, FileNotFoundError, FileExistsError."""
        shown = f"{self.location}/{name}".rstrip("/")
        try:
            return request(self._system, f"{self._root}/{name}".rstrip("/"))
        except (FileNotFoundError, FileExistsError, UserError):
            raise
        except Exception as e:  # each package raises its own errors
            text = getattr(e, "strerror", None) or str(e).strip() or type(e).__name__
            reason = text.splitlines()[0]
            hint = "; check the credentials in the environment, and what they permit"
            raise StoreError(
                f"{shown}: cannot {what} ({reason}){hint if isinstance(e, PermissionError) else ''}"
            ) from None

    def _no_bucket(self) -> StoreError:
        bucket = self._root.partition("/")[0]
        return StoreError(f"{self.location}: no bucket {bucket!r} there; create it or correct it")

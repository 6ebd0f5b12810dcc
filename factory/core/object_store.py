"""A prefix of an object store as a store: whole objects, each written by one request."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, unquote

from factory.core.endpoints import check_endpoint
from factory.core.fsspec_systems import PACKAGES, can_open, open_bucket
from factory.core.local_cache import open_cached
from osasis.errors import UserError

# A state that is looked at again and again is read at most this often: each look is a request.
LOOK_SECONDS = 4.0
# Bytes of a name between slashes: outputs can then be copied to a folder.
LONGEST_NAME = 255
# Bytes of an object's name with the prefix.
LONGEST_KEY = 1024
REQUESTS_AT_ONCE = 16
# S3 answers so to one of two conditional writes at once, which is to be sent again.
CONFLICT = "ConditionalRequestConflict"
ATTEMPTS, ATTEMPT_SECONDS = 6, 0.2
T = TypeVar("T")


class StoreError(UserError, OSError):
    """A store refuses a request or does not answer. The message names the object and the cause."""


class ObjectStore:
    """The store of a prefix, ``scheme://bucket/prefix``. See ``factory.core.stores.Store``."""

    look_seconds = LOOK_SECONDS
    longest_name = LONGEST_NAME

    def __init__(self, location: str) -> None:
        """Raises UserError for a scheme that is not supported, and where a package is missing."""
        self.location = location.rstrip("/")
        self.scheme, _, rest = self.location.partition("://")
        self._bucket, _, prefix = rest.partition("/")
        self._prefix = unquote(prefix)
        if self.scheme not in PACKAGES:
            raise UserError(
                f"{location}: {self.scheme}:// cannot be written to; give a folder, or a URI that "
                f"starts with {' or '.join(f'{s}://' for s in PACKAGES)}"
            )
        package = PACKAGES[self.scheme].name
        if not can_open(self.scheme):
            raise UserError(
                f"{location}: {self.scheme}:// needs the package {package}; install "
                f"style-factory[{self.scheme}]"
            )

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """fsspec's file system, and the store's path there."""
        check_endpoint(self.scheme)
        system, bucket = open_bucket(f"{self.scheme}://{self._bucket}")
        return system, f"{bucket}/{self._prefix}".rstrip("/")

    def within(self, folder: str) -> ObjectStore:
        return ObjectStore(f"{self.location}/{quote(folder)}")

    def read(self, name: str, limit: int | None = None) -> bytes:
        span = {} if limit is None else {"start": 0, "end": limit}
        try:
            return bytes(self._call("read", name, lambda fs, key: fs.cat_file(key, **span)))
        except StoreError:
            # Some stores refuse to read a part of an object that is empty.
            if limit is None or self._call("read", name, lambda fs, key: fs.size(key)) != 0:
                raise
            return b""

    def open(self, name: str) -> BinaryIO:
        return open_cached(f"{self.location}/{name}", lambda: self.read(name))

    def write(self, name: str, data: bytes) -> None:
        size = len(f"{self._prefix}/{name}".lstrip("/").encode())
        if size > LONGEST_KEY:
            text = f"the object's name has {size} bytes; a store allows {LONGEST_KEY}"
            raise OSError(errno.ENAMETOOLONG, text)
        try:
            self._call("write", name, lambda fs, key: fs.pipe_file(key, data))
        except FileNotFoundError:
            raise self._no_bucket() from None

    def create(self, name: str, data: bytes) -> bool:
        try:
            self._call("create", name, lambda fs, key: _create(fs, key, data))
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
        start = len(self._opened[1]) + 1
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
            system, root = self._opened
            return request(system, f"{root}/{name}".rstrip("/"))
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
        return StoreError(
            f"{self.location}: no bucket {self._bucket!r} there; create it or correct it"
        )


def _create(system: Any, key: str, data: bytes) -> None:
    """Create an object. Raises FileExistsError where it exists, and the package's errors."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            system.pipe_file(key, data, mode="create")
            return
        except OSError as e:
            answer = getattr(e.__cause__, "response", {})
            if answer.get("Error", {}).get("Code") != CONFLICT or attempt == ATTEMPTS:
                raise
        time.sleep(attempt * ATTEMPT_SECONDS)

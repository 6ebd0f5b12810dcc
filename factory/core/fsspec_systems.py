"""File systems of object stores that packages of fsspec open.

They take credentials, region and endpoint from the environment, the user's configuration files or
the platform; none stands in a location.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import fsspec
from pyarrow.fs import FileInfo, FileSelector, FileType, FSSpecHandler

from osasis.storage import sha256_text


class Package(NamedTuple):
    """A package of fsspec.

    variables: of the environment, which it reads. server: those that say which server it asks.
    """

    name: str
    options: dict[str, Any]
    variables: str
    server: tuple[str, ...]


# By scheme, which is the name of the extra, too. max_concurrency: a read is one request, without
# asking for the size first.
PACKAGES = {
    "s3": Package(
        "s3fs",
        {"max_concurrency": 1, "use_listings_cache": False},
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL",
        ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    ),
    "gs": Package(
        "gcsfs",
        {"use_listings_cache": False},
        "GOOGLE_APPLICATION_CREDENTIALS",
        ("STORAGE_EMULATOR_HOST",),
    ),
    "abfs": Package(
        "adlfs",
        {"use_listings_cache": False},
        "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_CONNECTION_STRING",
        ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_CONNECTION_STRING"),
    ),
}
# Where a file's last change stands in what a package tells of it.
CHANGED = ("mtime", "last_modified", "LastModified")


def can_open(scheme: str) -> bool:
    """Whether the package for a scheme is installed; False for other schemes."""
    return scheme in PACKAGES and importlib.util.find_spec(PACKAGES[scheme].name) is not None


def local_key(location: str) -> str:
    """A file name for this machine's copy of a location in a store.

    Buckets of the same name on two servers have different ones.
    """
    package = PACKAGES.get(location.partition("://")[0])
    server = [os.environ.get(name, "") for name in package.server] if package else []
    return sha256_text("\n".join([location, *server]))[:32]


def open_bucket(uri: str) -> tuple[Any, str]:
    """fsspec's file system of a scheme in PACKAGES, and its path of ``scheme://BUCKET``."""
    scheme = uri.partition("://")[0]
    system, root = fsspec.core.url_to_fs(uri, **PACKAGES[scheme].options)
    return system, str(root).strip("/")


class StoreFiles(FSSpecHandler):
    """fsspec's file system of a store for pyarrow.

    Files have their times of change, under whatever name the package tells them. Errors of a
    package's own types are raised as OSError.
    """

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        found = []
        for path in paths:
            try:
                with _os_errors():
                    found.append(_info(path, self.fs.info(path)))
            except FileNotFoundError:
                found.append(FileInfo(path, FileType.NotFound))
        return found

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        with _os_errors():
            found = self.fs.find(
                selector.base_dir,
                maxdepth=None if selector.recursive else 1,
                withdirs=not selector.recursive,
                detail=True,
            )
        return [_info(path, info) for path, info in found.items()]

    def open_input_stream(self, path: str) -> Any:
        with _os_errors():
            return super().open_input_stream(path)

    def open_input_file(self, path: str) -> Any:
        with _os_errors():
            return super().open_input_file(path)


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeError):
        raise
    except Exception as e:  # each package raises its own errors
        raise OSError((str(e).strip() or type(e).__name__).splitlines()[0]) from None


def _info(path: str, info: dict[str, Any]) -> FileInfo:
    if info["type"] != "file":
        return FileInfo(path, FileType.Directory)
    changed = next((info[name] for name in CHANGED if info.get(name) is not None), None)
    return FileInfo(path, FileType.File, size=info["size"], mtime=changed)

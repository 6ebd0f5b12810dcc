"""Copies on this machine of folders in an object store.

A folder such as a base or a content bank never changes: it is written whole, and the file that
describes it is written last. Another folder under the same name has another such file.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from factory.core.fsspec_systems import local_key
from factory.core.local_cache import cache_folder
from factory.core.stores import Location, Store, local_folder, open_store
from osasis.storage import sha256_text, write_atomic, write_json

COPIES = "copies"
# The names of a copy's files, beside it.
FILES = "files.json"
# Copies that no process has opened for ``KEPT_SECONDS`` are deleted where all are larger.
MAX_BYTES = 16 << 30
KEPT_SECONDS = 24 * 3600.0
REQUESTS_AT_ONCE = 8


def local_copy(location: Location, last: str) -> Path:
    """A folder by path or URI as a folder on this machine; of an object store, a cached copy.

    last: the file that is written last. Several processes may call this at once. Raises
    FileNotFoundError where the file is missing, StoreError, DiskFullError.
    """
    store = open_store(location)
    if (folder := local_folder(store)) is not None:
        return folder
    described = store.read(last)
    digest = sha256_text(f"{local_key(store.location)}\n{described.hex()}")[:32]
    copy = cache_folder() / COPIES / digest / store.location.rpartition("/")[2]
    if not _is_whole(copy):
        _download(store, copy)
        _limit(copy.parent)
    with contextlib.suppress(OSError):
        os.utime(copy.parent)
    return copy


def download(store: Store, folder: Path, skip: Collection[str] = ()) -> None:
    """Write the files of a store to a folder. skip: as in ``upload``.

    Raises StoreError, DiskFullError.
    """
    names = [name for name in store.list() if name.partition("/")[0] not in skip]

    def fetch(name: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # deleted since the listing
            write_atomic(folder / name, store.read(name))

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        list(pool.map(fetch, names))


def upload(folder: Path, store: Store, last: str, skip: Collection[str] = ()) -> None:
    """Write the files of a folder to a store. last: the file that makes them a whole.

    skip: files, and folders at the top, to leave out. Raises StoreError, DiskFullError.
    """
    files = [p for p in folder.rglob("*") if p.is_file()]
    names = sorted(p.relative_to(folder).as_posix() for p in files)
    names = [name for name in names if name.partition("/")[0] not in skip]

    def send(name: str) -> None:
        store.write(name, (folder / name).read_bytes())

    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        list(pool.map(send, [name for name in names if name != last]))
    send(last)


def _download(store: Store, copy: Path) -> None:
    """Download a folder beside its place and rename it, so that a copy is whole."""
    partial = copy.parent.parent / f".{uuid.uuid4().hex}"
    try:
        download(store, partial / copy.name)
        names = [p.relative_to(partial / copy.name) for p in (partial / copy.name).rglob("*")]
        write_json(partial / FILES, sorted(map(str, names)))
        try:
            partial.rename(copy.parent)
        except OSError:  # another process was faster, or files of the copy are gone
            if not _is_whole(copy):
                _delete(copy.parent)
                partial.rename(copy.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_whole(copy: Path) -> bool:
    """Whether all files of a copy are there: systems delete old temporary files one by one."""
    try:
        names = json.loads((copy.parent / FILES).read_text())
    except (OSError, ValueError):
        return False
    return all((copy / name).exists() for name in names)


def _delete(folder: Path) -> None:
    """Delete a folder; no process finds a part of it at its place."""
    hidden = folder.parent / f".{uuid.uuid4().hex}"
    with contextlib.suppress(OSError):  # another process deletes it
        folder.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def _limit(newest: Path) -> None:
    """Delete old copies but the newest, least recently opened first, beyond MAX_BYTES."""
    copies = []
    for path in newest.parent.iterdir():
        with contextlib.suppress(OSError):
            size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
            copies.append((path.stat().st_mtime, size, path))
    total = sum(size for _, size, _ in copies)
    for opened, size, path in sorted(copies):
        if total <= MAX_BYTES or time.time() - opened < KEPT_SECONDS:
            break
        if path != newest:
            _delete(path)
            total -= size

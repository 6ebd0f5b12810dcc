"""A folder as a store: whole files, written by rename."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import IO, BinaryIO

from osasis.storage import create_file, write_atomic

# Bytes that a file name may have on most file systems.
LONGEST_NAME = 255
PART = ".part"


class LocalStore:
    """The store of a folder, which need not exist yet. See ``factory.core.stores.Store``."""

    look_seconds = 0.0

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = str(path)
        self._held: dict[str, IO[bytes]] = {}

    def within(self, folder: str) -> LocalStore:
        return LocalStore(self.path / folder)

    def read(self, name: str, limit: int | None = None) -> bytes:
        with (self.path / name).open("rb") as file:
            return file.read(-1 if limit is None else limit)

    def open(self, name: str) -> BinaryIO:
        return (self.path / name).open("rb")

    def write(self, name: str, data: bytes) -> None:
        write_atomic(self.path / name, data)

    def create(self, name: str, data: bytes) -> bool:
        self.path.mkdir(parents=True, exist_ok=True)
        return create_file(self.path / name, data)

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def delete_folder(self, folder: str) -> None:
        shutil.rmtree(self.path / folder, ignore_errors=True)

    def list(self, folder: str = "") -> list[str]:
        root = self.path / folder
        found = []
        for place, _, names in os.walk(root):
            start = os.path.relpath(place, self.path)
            found += [
                name if start == "." else f"{start}/{name}"
                for name in names
                if not name.endswith(PART)
            ]
        return sorted(found)

    def changed(self, name: str) -> float | None:
        try:
            # Opening a file makes a network file system read its attributes anew.
            with (self.path / name).open("rb") as file:
                return os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None

    def touch(self, name: str) -> None:
        os.utime(self.path / name)

    def hold(self, name: str) -> None:
        file = (self.path / name).open("rb")
        self._held[name] = file
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def let_go(self, name: str) -> None:
        if (file := self._held.pop(name, None)) is not None:
            file.close()

    def is_held(self, name: str) -> bool:
        try:
            with (self.path / name).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # no such file, or a file system without locks
            return False
        return False

    def sweep(self) -> None:
        for stale in self.path.rglob(f".*{PART}"):
            stale.unlink(missing_ok=True)

    @property
    def longest_name(self) -> int:
        try:  # encrypted file systems store shorter names, such as 143 bytes
            return min(LONGEST_NAME, os.pathconf(self.path, "PC_NAME_MAX"))
        except (OSError, ValueError):
            return LONGEST_NAME

    def name_of(self, name: bytes) -> str:
        return os.fsdecode(name)

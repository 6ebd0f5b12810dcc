"""The records of a job's outputs.

A worker writes the records of a batch to a file of its own. The driver gathers these files into the
segments of its log. Files are only written whole, so that the same code serves object stores.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from factory.core.stores import Store

LOG, RECORDS = "log", "records"
# Size at which a segment is full; until then, it is written again with each batch of records.
SEGMENT_BYTES = 1 << 20
READERS = 16


class JobLog:
    """The log of a job's state, see ``pipelines.job_folder``."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._number: int | None = None
        self._segment = b""
        # Another driver that took the job over meanwhile writes segments of other names.
        self._writer = uuid.uuid4().hex[:8]

    def lines(self, *folders: str) -> Iterator[dict[str, Any]]:
        """The lines of the files below LOG, RECORDS, or one after the other."""
        for folder in folders:
            for _, data in self._read(self.store.list(folder)):
                yield from parse(data)

    def new_records(self) -> list[tuple[str, bytes]]:
        """Name and content of the workers' files that are not in the log yet."""
        return list(self._read(self.store.list(RECORDS)))

    def gather(self, records: list[tuple[str, bytes]]) -> None:
        """Write what ``new_records`` returned to the log, and delete the files.

        Raises DiskFullError or StoreError; the files are then kept.
        """
        if not records:
            return
        self._append(b"".join(data for _, data in records))
        self.store.delete(name for name, _ in records)

    def write(self, lines: Iterable[dict[str, Any]]) -> None:
        """Write lines to the log of a new state."""
        block: list[bytes] = []
        size = 0
        for line in lines:
            block.append(json.dumps(line).encode() + b"\n")
            size += len(block[-1])
            if size >= SEGMENT_BYTES:
                self._append(b"".join(block))
                block, size = [], 0
        if block:
            self._append(b"".join(block))

    def _append(self, data: bytes) -> None:
        if self._number is None:
            self._number = len(self.store.list(LOG))
        self._segment += data
        self.store.write(f"{LOG}/{self._number:06d}-{self._writer}.jsonl", self._segment)
        if len(self._segment) >= SEGMENT_BYTES:
            self._number, self._segment = self._number + 1, b""

    def _read(self, names: list[str]) -> Iterator[tuple[str, bytes]]:
        """Names and contents of files, a few at once in memory."""
        with ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(names), READERS):
                some = names[start : start + READERS]
                yield from zip(some, pool.map(self.store.read, some), strict=True)


def parse(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # a machine that lost power may leave a line cut off
            continue

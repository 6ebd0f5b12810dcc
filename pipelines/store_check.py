"""Tells a photo that a store refuses from a store that refuses every photo.

A forbidden photo fails alone. Credentials that have expired, or a store that is down, would fail
all photos that are left, so they stop the job instead.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import pyarrow.parquet as pq

from factory.core.object_store import StoreError
from factory.core.stores import open_store
from osasis.errors import ImageError
from pipelines.manifest import MANIFEST, manifest_rows
from pipelines.photo_bytes import is_in_store, read_photo
from pipelines.subprocess_timeout import CallTimeoutError, WorkerCrashedError, run_with_timeout

# Photos, spread over the input, of which at least one must be readable.
SAMPLE = 32
READS_AT_ONCE = 16
# Limit for reading the sample where photos have none.
SECONDS = 60.0


class StoreCheck:
    """Looks whether any photo of an input can be read. Remembers one that could."""

    def __init__(self, locations: Callable[[], Sequence[str]], seconds: float | None) -> None:
        """locations: some photos of the input; called when a photo is refused."""
        self._locations, self._seconds = locations, seconds or SECONDS
        self._readable: str | None = None

    def check(self, refusal: StoreError) -> None:
        """Raise StoreError where the store refuses all photos. refusal: of one photo."""
        if self._readable is not None and self._first_readable([self._readable]) is not None:
            return
        sample = sorted({place for place in self._locations() if is_in_store(place)})
        self._readable = self._first_readable(sample)
        if self._readable is None:
            tried = f"of {len(sample)} photos that were tried none" if len(sample) > 1 else "it"
            raise StoreError(f"{refusal}; {tried} can be read")

    def _first_readable(self, locations: Sequence[str]) -> str | None:
        try:
            return run_with_timeout(self._seconds, first_readable, locations)
        except (CallTimeoutError, WorkerCrashedError):
            return None


@functools.lru_cache(maxsize=4)
def check_of_job(folder: str, seconds: float | None) -> StoreCheck:
    """The check of this process for a job's input. folder: of the job's state."""
    return StoreCheck(functools.partial(_sample_of_job, folder), seconds)


def spread(count: int, most: int = SAMPLE) -> list[int]:
    """At most ``most`` numbers below ``count``, at equal distances."""
    return sorted({i * count // most for i in range(most)}) if count else []


def _sample_of_job(folder: str) -> list[str]:
    with open_store(folder).open(MANIFEST) as file, pq.ParquetFile(file) as table:
        count = table.metadata.num_rows
    return [os.fsdecode(row["path"]) for row in manifest_rows(folder, spread(count))]


def first_readable(locations: Sequence[str]) -> str | None:
    """The first of these photos that a store gives; None where it gives none."""
    pool = ThreadPoolExecutor(READS_AT_ONCE)
    reads = {pool.submit(_is_readable, place): place for place in locations}
    try:
        return next((reads[done] for done in as_completed(reads) if done.result()), None)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _is_readable(location: str) -> bool:
    try:
        read_photo(location, 1)
    except StoreError:
        return False
    except ImageError:  # the store answers that it has no such object
        return True
    return True

"""Full disks and stores that refuse: recognised in the errors of every library, and named."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from factory.core.object_store import StoreError
from osasis.storage import FULL, DiskFullError, disk_full

# Where Ray, MLflow or sqlite pass an error on as text.
TEXTS = {
    os.strerror(errno.ENOSPC): errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,
    os.strerror(errno.EDQUOT): errno.EDQUOT,
}
STORE_ERROR = re.compile(r"\bStoreError: (.+)")
NAMED = re.compile(r"the disk(?: quota)? of .+? is full(?: \([^()]*\))?")


def find_disk_full(error: BaseException, folder: Path | None = None) -> DiskFullError | None:
    """The full disk that caused the error; None if the cause is another.

    folder: is named where the error names no file.
    """
    chain = _causes(error)
    for e in chain:
        if isinstance(e, DiskFullError):
            return e
    for e in chain:
        if named := NAMED.search(str(e)):
            return DiskFullError(errno.ENOSPC, named[0])
    for e in chain:
        if isinstance(e, OSError) and e.errno in FULL:
            # A copy names its source first.
            file = e.filename2 or e.filename
            where = Path(os.fsdecode(file)).parent if isinstance(file, (str, bytes)) else folder
            return disk_full(where or Path.cwd(), e.errno)
    for e in chain:
        for text, number in TEXTS.items():
            if text in str(e):
                return disk_full(folder or Path.cwd(), number)
    return None


def find_refusal(error: BaseException, folder: Path | None = None) -> OSError | None:
    """The store that refused a request, or else the full disk, that caused the error."""
    for e in _causes(error):
        # Ray Data passes an error of a worker on as the text of its traceback.
        if refused := STORE_ERROR.search(str(e)):
            return StoreError(refused[1])
        if isinstance(e, StoreError):
            return e
    return find_disk_full(error, folder)


@contextlib.contextmanager
def disk_named(folder: Path | Callable[[], Path]) -> Iterator[None]:
    """Raise DiskFullError in place of any error inside that tells of a full disk."""
    try:
        yield
    except Exception as e:
        where = folder if isinstance(folder, Path) else folder()
        if (full := find_disk_full(e, where)) is None or full is e:
            raise
        raise full from e


def _causes(error: BaseException) -> list[BaseException]:
    """An error and its causes; Ray puts the error of a task in ``cause``."""
    found: list[BaseException] = []
    waiting = [error]
    while waiting:
        e = waiting.pop(0)
        if e in found:
            continue
        found.append(e)
        # Ray Train: the errors of a group's workers, by rank.
        failures = getattr(e, "worker_failures", {})
        near = [getattr(e, "cause", None), e.__cause__, e.__context__, *failures.values()]
        waiting += [n for n in near if isinstance(n, BaseException)]
    return found

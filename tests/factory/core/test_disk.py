"""Full disks are recognised in the errors of libraries, and named by their folder."""

from __future__ import annotations

import errno
import os
import pickle
import sqlite3
from pathlib import Path

import pytest

from factory.core.disk import disk_named, find_disk_full, find_refusal
from factory.core.failures import DISK, describe_failure, failure_kind
from factory.core.object_store import StoreError
from osasis.storage import DiskFullError, disk_full


class TaskError(Exception):
    """Ray's way to pass an error on: the cause as an attribute, or only its traceback."""

    def __init__(self, text: str, cause: BaseException | None = None) -> None:
        super().__init__(text)
        self.cause = cause


FULL = DiskFullError(errno.ENOSPC, "the disk of out/oil is full (4 kB free, 9 kB needed)")


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        pickle.loads(pickle.dumps(FULL)),
        TaskError("Traceback ...", FULL),
        TaskError(f'File "x.py", line 1\nDiskFullError: {FULL}\n\nTo change retry attempts, ...'),
    ],
)
def test_the_folder_that_a_worker_named_is_kept(error: BaseException) -> None:
    assert str(find_disk_full(error, Path("elsewhere"))) == str(FULL)
    assert (failure_kind(error), describe_failure(error)) == (DISK, str(FULL))


STORE = StoreError("s3://b/out/1.png: cannot write (AccessDenied)")


@pytest.mark.parametrize(
    "error",
    [
        STORE,
        pickle.loads(pickle.dumps(STORE)),
        TaskError("Traceback ...", STORE),
        TaskError(f'File "x.py"\nfactory.core.object_store.StoreError: {STORE}\n\nTo change ...'),
    ],
)
def test_a_store_that_refused_a_worker_is_found(error: BaseException) -> None:
    assert str(find_refusal(error)) == str(STORE)
    assert find_refusal(FULL) is FULL


@pytest.mark.parametrize(
    ("error", "start"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk of {home} is full ("),
        (
            OSError(errno.ENOSPC, "No space left on device", "{home}/jobs/file"),
            "the disk of {home}/jobs is full (",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "source", None, "{home}/store/copy"),
            "the disk of {home}/store is full (",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk quota of {home} is full"),
        (sqlite3.OperationalError("database or disk is full"), "the disk of {home} is full ("),
        (TaskError("OSError: [Errno 28] No space left on device"), "the disk of {home} is full ("),
    ],
)
def test_errors_of_libraries(error: Exception, start: str, tmp_path: Path) -> None:
    for name in ("filename", "filename2"):
        if isinstance(file := getattr(error, name, None), str):
            setattr(error, name, file.format(home=tmp_path))
    with pytest.raises(DiskFullError) as full, disk_named(tmp_path):
        raise RuntimeError("a library's own") from error
    assert str(full.value).startswith(start.format(home=tmp_path))
    assert failure_kind(error) == DISK


def test_other_errors_are_left_alone(tmp_path: Path) -> None:
    other = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    assert find_disk_full(other) is None
    with pytest.raises(PermissionError), disk_named(tmp_path):
        raise other


def test_free_and_needed_room_are_said(tmp_path: Path) -> None:
    text = str(disk_full(tmp_path / "not" / "yet", errno.ENOSPC, 12_345_678))
    assert text.startswith(f"the disk of {tmp_path}/not/yet is full (")
    assert text.endswith(" free, 12.4 MB needed)") or text.endswith(" free, 12.3 MB needed)")

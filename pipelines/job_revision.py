"""Takes up a changed input, or changed styles and mixes, in the folder of an earlier job.

Photos are matched by key. An output is kept if its photo and its mix are the same as before: the
job's log is written again with the rows of the new manifest. The new state is written beside the
old one and then moved into its place, so that an interruption leaves one of the two.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from osasis.errors import ImageError, UserError
from osasis.storage import write_atomic, write_json
from pipelines.job_folder import JobFolder
from pipelines.job_identity import (
    JOB,
    LOG,
    MANIFEST,
    check_same_job,
    job_identity,
    read_identity,
)
from pipelines.manifest import photo_digest, printable, write_manifest
from pipelines.photo_listing import MASKS, listing_names
from pipelines.source import read_photo

# New state while it is written, and when it is complete.
STAGING, READY = "revision", "revision-ready"
READERS = 16
FROZEN = "leave --frozen out to take up the changed input"
UPDATE = "give --update to make again what differs"
# Fields of the identity that hold for every output. Styles, mixes and masks are compared by output.
WHOLE = ("format", "code", "base", "options", "folder")


@dataclass(frozen=True)
class InputChanges:
    """Difference of a job's photos to those of the run before.

    new: photos without an output before. changed, vanished: keys. touched: photos with equal bytes
    and another path or modification time.
    """

    new: int = 0
    changed: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()
    touched: int = 0

    def __str__(self) -> str:
        counts = {
            "new": self.new,
            "changed": len(self.changed),
            "vanished": len(self.vanished),
            "with another time of change only": self.touched,
        }
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)

    def to_dict(self) -> dict[str, Any]:
        return {
            "new": self.new,
            "changed": list(self.changed),
            "vanished": list(self.vanished),
            "touched": self.touched,
        }


def finish_revision(folder: Path) -> None:
    """Complete or discard the revision that a killed driver has left in a job folder."""
    shutil.rmtree(folder / STAGING, ignore_errors=True)
    ready = folder / READY
    if not ready.is_dir():
        return
    # Its records are part of the new log, which has other rows.
    shutil.rmtree(folder / "progress", ignore_errors=True)
    for name in (MANIFEST, LOG, JOB):
        if (ready / name).is_file():
            (ready / name).replace(folder / name)
    ready.rmdir()


def known_names(folder: Path) -> dict[bytes, list[bytes]]:
    """Output names by the keys of photos in a job folder, in order; none where it has no job."""
    finish_revision(folder)
    if not (folder / MANIFEST).is_file():
        return {}
    table = pq.read_table(folder / MANIFEST, columns=["key", "name"])
    names: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for key, name in zip(*(column.to_pylist() for column in table.columns), strict=True):
        names[key].append(name)
    return names


def take_up(
    folder: JobFolder,
    fingerprint: dict[str, Any],
    manifest: pa.Table,
    *,
    frozen: bool = False,
    update: bool = False,
) -> InputChanges | None:
    """Change the job of a folder into the one of ``fingerprint`` and ``manifest``.

    frozen: leave a job with another input as it is. update: also take up other styles, mixes,
    masks, options or another base. Returns how the photos differ; None for a new job and for the
    same one. Raises UserError naming what differs where it is not taken up.
    """
    if not (folder.path / JOB).is_file():
        return None
    old = read_identity(folder.path / JOB)
    new = job_identity(fingerprint)
    different = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    if not different:
        return None
    if not update and (frozen or different != {"input"}):
        advice = FROZEN if different == {"input"} else UPDATE
        check_same_job(folder.output, old, new, manifest, advice)
    if new["options"]["format"] == "parquet" and (folder.path / LOG).is_file():
        raise UserError(
            f"{folder.output}: the job has changed, and outputs in Parquet are made as a whole; "
            "choose another --output"
        )
    write_atomic(folder.path / "run", folder.run.encode())  # workers of a killed driver stop
    before = pq.read_table(folder.path / MANIFEST)
    rows, changes = _match(before, manifest, _digests(folder))
    targets = _same_targets(old, new) if not different.intersection(WHOLE) else {}
    staging = folder.path / STAGING
    write_manifest(staging / MANIFEST, manifest)
    kept = _kept_lines(folder, rows, targets, manifest)
    write_atomic(staging / LOG, b"".join(json.dumps(line).encode() + b"\n" for line in kept))
    write_json(staging / JOB, new)
    staging.rename(folder.path / READY)
    finish_revision(folder.path)
    return changes


def _log_lines(folder: JobFolder) -> Iterator[dict[str, Any]]:
    """The lines of the log and of the workers' records that are not part of it yet."""
    paths = [folder.path / LOG, *sorted((folder.path / "progress").glob("*/*.jsonl"))]
    for path in paths:
        if not path.is_file():
            continue
        with path.open("rb") as file:
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError:  # a line cut off when a driver was killed
                    continue


def _digests(folder: JobFolder) -> dict[int, str]:
    """Digests of the photos that were read, by row."""
    lines = _log_lines(folder)
    return {line["photo"]: line["digest"] for line in lines if line.get("digest")}


def _match(
    before: pa.Table, now: pa.Table, digests: dict[int, str]
) -> tuple[dict[int, int], InputChanges]:
    """The new row of each old row whose photo is the same, and how the photos differ."""
    # Old rows by key, with their stamps; a key may occur several times.
    old: defaultdict[tuple[bytes, int], list[tuple[int, int]]] = defaultdict(list)
    for i, row in enumerate(_rows(before)):
        old[row["key"], row["row"]].append((i, _stamp(row)))
    same: dict[int, int] = {}
    unclear: list[tuple[int, int, dict[str, Any]]] = []
    count = 0
    for j, row in enumerate(_rows(now)):
        if not (found := old[row["key"], row["row"]]):
            count += 1
            continue
        i, stamp = found.pop(0)
        if stamp == _stamp(row):
            same[i] = j
        else:
            unclear.append((i, j, row))
    with ThreadPoolExecutor(READERS) as pool:
        equal = list(pool.map(lambda u: _equal_bytes(u[2], digests.get(u[0])), unclear))
    touched = {i: j for (i, j, _), is_equal in zip(unclear, equal, strict=True) if is_equal}
    changed = tuple(printable(row["key"]) for i, _, row in unclear if i not in touched)
    gone = sorted((i, key) for (key, _), left in old.items() for i, _ in left)
    vanished = tuple(printable(key) for _, key in gone)
    return same | touched, InputChanges(count, changed, vanished, len(touched))


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows of a listing, a few at a time in memory."""
    for batch in table.select(listing_names(table)).to_batches(max_chunksize=1 << 14):
        yield from batch.to_pylist()


def _stamp(row: dict[str, Any]) -> int:
    """A hash of where a photo's file and its mask are, their sizes and modification times."""
    return hash(tuple(row.get(name) for name in ("path", "group", "size", "mtime", *MASKS.names)))


def _equal_bytes(row: dict[str, Any], digest: str | None) -> bool:
    """Whether an image file and its mask still have the bytes with this digest; rows of tables are
    not read."""
    if digest is None or row["row"] >= 0 or row.get("mask_problem"):
        return False
    mask = row.get("mask")
    try:
        mask_data = b"" if mask is None else read_photo(os.fsdecode(mask))
        return photo_digest(read_photo(os.fsdecode(row["path"])), mask_data) == digest
    except ImageError:
        return False


def _same_targets(old: dict[str, Any], new: dict[str, Any]) -> dict[int, int]:
    """The new index of each old mix that has the same styles and masks as before."""
    known = {_target_key(old, mix): i for i, mix in enumerate(old["targets"])}
    found = {known.get(_target_key(new, mix)): j for j, mix in enumerate(new["targets"])}
    return {i: j for i, j in found.items() if i is not None}


def _target_key(identity: dict[str, Any], mix: dict[str, Any]) -> str:
    styles = [identity["styles"][s["style"]] for s in mix["styles"]]
    masks = [identity.get("masks", {}).get(s.get("mask")) for s in mix["styles"]]
    return json.dumps([mix, styles, masks], sort_keys=True)


def _kept_lines(
    folder: JobFolder, rows: dict[int, int], targets: dict[int, int], manifest: pa.Table
) -> Iterator[dict[str, Any]]:
    """The log's lines of kept outputs, with their new rows and targets, and the timings."""
    wanted = manifest["targets"].to_pylist()
    for line in _log_lines(folder):
        if "photo" not in line:
            yield line
            continue
        photo, target = rows.get(line["photo"]), targets.get(line["target"])
        if photo is not None and target is not None and target in wanted[photo]:
            yield {**line, "photo": photo, "target": target}

"""Takes up a changed input, or changed styles and mixes, in the folder of an earlier job.

Photos are matched by key. An output is kept if its photo and its mix are the same as before: the
job's log is written again with the rows of the new manifest. The new state is written beside the
old one; then job.json is made to name it, so that an interruption leaves one of the two.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from osasis.errors import ImageError, UserError
from pipelines.job_folder import RUN, JobFolder, new_state
from pipelines.job_identity import SavedJob, check_same_job, job_identity, read_job, write_job
from pipelines.job_log import LOG, RECORDS, JobLog
from pipelines.manifest import photo_digest, printable, read_manifest, write_manifest
from pipelines.photo_bytes import read_photo
from pipelines.photo_listing import MASKS, listing_names

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


def known_names(folder: JobFolder) -> dict[bytes, list[bytes]]:
    """Output names by the keys of photos in a job folder, in order; none where it has no job."""
    names: defaultdict[bytes, list[bytes]] = defaultdict(list)
    if (job := read_job(folder.folder)) is None:
        return names
    table = read_manifest(folder.folder.within(job.state), columns=["key", "name"])
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
    if (job := read_job(folder.folder)) is None:
        return None
    old, new = job.identity, job_identity(fingerprint)
    different = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    if not different:
        return None
    if not update and (frozen or different != {"input"}):
        advice = FROZEN if different == {"input"} else UPDATE
        check_same_job(folder.folder, job, new, manifest, advice)
    place = folder.folder.within(job.state)
    log = JobLog(place)
    if new["options"]["format"] == "parquet" and (place.list(LOG) or place.list(RECORDS)):
        raise UserError(
            f"{folder.output.location}: the job has changed, and outputs in Parquet are made as a "
            "whole; choose another --output"
        )
    place.delete([RUN])  # workers of a killed driver stop
    digests = {
        line["photo"]: line["digest"] for line in log.lines(LOG, RECORDS) if line.get("digest")
    }
    rows, changes = _match(read_manifest(place), manifest, digests)
    targets = _same_targets(old, new) if not different.intersection(WHOLE) else {}
    after = SavedJob(new, new_state())
    write_manifest(folder.folder.within(after.state), manifest)
    kept = _kept_lines(log.lines(LOG, RECORDS), rows, targets, manifest)
    JobLog(folder.folder.within(after.state)).write(kept)
    write_job(folder.folder, after)
    return changes


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
    lines: Iterator[dict[str, Any]],
    rows: dict[int, int],
    targets: dict[int, int],
    manifest: pa.Table,
) -> Iterator[dict[str, Any]]:
    """The log's lines of kept outputs, with their new rows and targets, and the timings."""
    wanted = manifest["targets"].to_pylist()
    for line in lines:
        if "photo" not in line:
            yield line
            continue
        photo, target = rows.get(line["photo"]), targets.get(line["target"])
        if photo is not None and target is not None and target in wanted[photo]:
            yield {**line, "photo": photo, "target": target}

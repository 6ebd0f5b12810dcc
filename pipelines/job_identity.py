"""What makes two corpus jobs the same, and the file of OUTPUT/.job that says so."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from factory.core.stores import Store
from osasis.errors import UserError
from osasis.storage import json_bytes
from pipelines.manifest import MANIFEST, first_difference, read_manifest

FOLDER = ".job"
JOB = "job.json"
FORMAT = 2


@dataclass(frozen=True)
class SavedJob:
    """The content of job.json. state: the folder beside it that holds the job's state."""

    identity: dict[str, Any]
    state: str


def job_identity(fingerprint: dict[str, Any]) -> dict[str, Any]:
    """The fields that two runs of the same job have in common."""
    # Through JSON, so that tuples become lists.
    found: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **fingerprint}))
    return found


def read_job(folder: Store) -> SavedJob | None:
    """The job of a folder; None where it has none. Raises UserError for one of another format."""
    try:
        found: dict[str, Any] = json.loads(folder.read(JOB))
    except FileNotFoundError:
        return None
    if (version := found.get("format")) != FORMAT:
        raise UserError(
            f"{folder.location} holds a job of format {version}, of another version of "
            f"style-factory; this one writes format {FORMAT}. Finish the job with that version, "
            f"choose another --output, or delete {folder.location}"
        )
    return SavedJob(found, found.pop("state"))


def write_job(folder: Store, job: SavedJob) -> None:
    """Write job.json. From then on, the job's state is the one that it names."""
    folder.write(JOB, json_bytes({**job.identity, "state": job.state}))


def check_same_job(
    folder: Store, job: SavedJob, new: dict[str, Any], manifest: pa.Table, advice: str = ""
) -> None:
    """Raise UserError naming every difference of a folder's job to another one, and what to do.

    folder: OUTPUT/.job. new, manifest: of the other job.
    """
    old, differences = job.identity, []
    for name in (n for n in new if old.get(n) != new[n]):
        if name == "input":
            before = read_manifest(folder, f"{job.state}/{MANIFEST}")
            differences.append(f"input: {first_difference(before, manifest)}")
        else:
            differences += _differences(name, old.get(name), new[name])
    if differences:
        output = folder.location.removesuffix(f"/{FOLDER}")
        raise UserError(
            f"{output} holds another job ({'; '.join(differences)}); repeat its command to resume "
            f"it, choose another --output, or {advice or f'delete {folder.location}'}"
        )


def _differences(name: str, old: Any, new: Any) -> list[str]:
    """``name: old before, new now`` for each leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        out = []
        for key in [*old, *(k for k in new if k not in old)]:
            if old.get(key) != new.get(key):
                out += _differences(f"{name}.{key}", old.get(key), new.get(key))
        return out
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [d for i, (a, b) in pairs if a != b for d in _differences(f"{name}[{i}]", a, b)]
    return [f"{name}: {_shorten(old)} before, {_shorten(new)} now"]


def _shorten(value: Any) -> str:
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."

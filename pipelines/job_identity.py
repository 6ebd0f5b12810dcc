"""What makes two corpus jobs the same, and the files of OUTPUT/.job that say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from osasis.errors import UserError
from pipelines.manifest import first_difference

FOLDER = ".job"
JOB, MANIFEST, LOG = "job.json", "manifest.parquet", "progress.jsonl"
FORMAT = 1


def job_identity(fingerprint: dict[str, Any]) -> dict[str, Any]:
    """The content of job.json."""
    # Through JSON, so that tuples become lists.
    found: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **fingerprint}))
    return found


def read_identity(path: Path) -> dict[str, Any]:
    """The content of a job.json of this or an earlier version, whose mixes had a ``seed`` that had
    no effect."""
    found: dict[str, Any] = json.loads(path.read_text())
    for mix in found.get("targets", ()):
        mix.pop("seed", None)
    return found


def check_same_job(
    output: Path, old: dict[str, Any], new: dict[str, Any], manifest: pa.Table, advice: str = ""
) -> None:
    """Raise UserError naming every difference of two identities, and what to do.

    manifest: of the new job.
    """
    folder, differences = output / FOLDER, []
    for name in (n for n in new if old.get(n) != new[n]):
        if name == "input":
            before = pq.read_table(folder / MANIFEST)
            differences.append(f"input: {first_difference(before, manifest)}")
        else:
            differences += _differences(name, old.get(name), new[name])
    if differences:
        raise UserError(
            f"{output} holds another job ({'; '.join(differences)}); repeat its command to resume "
            f"it, choose another --output, or {advice or f'delete {folder}'}"
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

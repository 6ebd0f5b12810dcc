"""Measurements of pictures in Parquet: one row per picture and metric, written in any order.

    OUTPUT/rows/*.parquet         one file per finished batch, written by a worker
    OUTPUT/measurements.parquet   all rows, into which the driver merges these files

A resumed evaluation measures only what has no row.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.manifest import write_parquet

ROWS, MERGED = "rows", "measurements.parquet"
# photo: row of the manifest. weights: hash of the weights that the metric used, and of what made a
# baseline's picture; "" without either. values: what the metric measured, null where the picture
# has no value (such as a photo without a face). reason: of a failed measurement, which a resumed
# run repeats.
MEASURED = pa.schema(
    [
        ("photo", pa.int64()),
        ("style", pa.string()),
        ("variant", pa.string()),
        ("metric", pa.string()),
        ("backbone", pa.string()),
        ("weights", pa.string()),
        ("values", pa.list_(pa.float64())),
        ("reason", pa.string()),
    ]
)
KEY = ("photo", "style", "variant", "metric", "backbone", "weights")
Key = tuple[int, str, str, str, str, str]


@dataclass(frozen=True)
class Picture:
    """A picture to measure. photo: row of the manifest. path: of the stylization."""

    photo: int
    style: str
    variant: str
    path: str

    def key(self, metric: str, backbone: str, weights: str) -> Key:
        return self.photo, self.style, self.variant, metric, backbone, weights


def key_of(row: dict[str, Any]) -> Key:
    """The key of a row of MEASURED."""
    photo, style, variant, metric, backbone, weights = (row[name] for name in KEY)
    return photo, style, variant, metric, backbone, weights


def write_part(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write a batch's rows as one new file, atomically."""
    table = pa.Table.from_pylist(rows, schema=MEASURED)
    write_parquet(folder / ROWS / f"{uuid.uuid4().hex}.parquet", table)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """All rows, once each, in the order of their keys; a success replaces a failure."""
    files = [folder / MERGED, *(folder / ROWS).glob("*.parquet")]
    found: dict[Key, dict[str, Any]] = {}
    for path in files:
        if path.is_file():
            for row in pq.read_table(path, schema=MEASURED).to_pylist():
                row["weights"] = row["weights"] or ""  # null in files without the column
                if not row["reason"] or key_of(row) not in found:
                    found[key_of(row)] = row
    return [found[key] for key in sorted(found)]


def merge(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write all rows to one file, and delete the batches' files."""
    parts = list((folder / ROWS).glob("*.parquet"))
    if not parts:
        return
    write_parquet(folder / MERGED, pa.Table.from_pylist(list(rows), schema=MEASURED))
    for part in parts:
        part.unlink(missing_ok=True)

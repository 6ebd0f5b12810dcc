"""Measurements of pictures in Parquet: one row per picture and metric, written in any order.

    OUTPUT/rows/*.parquet         one file per finished batch, written by a worker
    OUTPUT/measurements.parquet   all rows, into which the driver merges these files

A resumed evaluation measures only what has no row.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from factory.core.stores import Store
from pipelines.manifest import parquet_bytes

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
    """A picture to measure. photo: row of the manifest. name: in the evaluation's store."""

    photo: int
    style: str
    variant: str
    name: str

    def key(self, metric: str, backbone: str, weights: str) -> Key:
        return self.photo, self.style, self.variant, metric, backbone, weights


def key_of(row: dict[str, Any]) -> Key:
    """The key of a row of MEASURED."""
    photo, style, variant, metric, backbone, weights = (row[name] for name in KEY)
    return photo, style, variant, metric, backbone, weights


def write_part(place: Store, rows: list[dict[str, Any]]) -> None:
    """Write a batch's rows as one new file. place: of the evaluation."""
    table = pa.Table.from_pylist(rows, schema=MEASURED)
    place.write(f"{ROWS}/{uuid.uuid4().hex}.parquet", parquet_bytes(table))


def read_rows(place: Store) -> list[dict[str, Any]]:
    """All rows, once each, in the order of their keys; a success replaces a failure."""
    found: dict[Key, dict[str, Any]] = {}
    for name in [MERGED, *place.list(ROWS)]:
        try:
            file = pa.BufferReader(place.read(name))
        except FileNotFoundError:  # nothing was merged before
            continue
        for row in pq.read_table(file, schema=MEASURED).to_pylist():
            row["weights"] = row["weights"] or ""  # null in files without the column
            if not row["reason"] or key_of(row) not in found:
                found[key_of(row)] = row
    return [found[key] for key in sorted(found)]


def merge(place: Store, rows: Iterable[dict[str, Any]]) -> None:
    """Write all rows to one file, and delete the batches' files."""
    parts = place.list(ROWS)
    if not parts:
        return
    table = pa.Table.from_pylist(list(rows), schema=MEASURED)
    place.write(MERGED, parquet_bytes(table))
    place.delete(parts)

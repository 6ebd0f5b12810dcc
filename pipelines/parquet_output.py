"""Parquet outputs: merges the batches' part files into tables with the input's rows and columns.

The tables do not depend on how the outputs are distributed over part files, and therefore not on
interruptions of the job.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from factory.core.stores import open_store
from osasis.bundles.provenance import read_provenance
from osasis.errors import UserError
from pipelines.job_folder import FAILED, PARTS, JobFolder, part_name
from pipelines.job_spec import JobSpec
from pipelines.manifest import manifest_rows, output_id, parquet_bytes
from pipelines.parquet_input import open_parquet

# Photos per output file; a file's outputs are held in memory, encoded.
PHOTOS_PER_FILE = 256
FINISHED = "tables-finished"
# The columns that an output has in addition to those of its input.
OUTPUT_SCHEMA = pa.schema(
    [
        ("stylized", pa.large_binary()),
        ("stylized_id", pa.string()),
        ("stylized_key", pa.string()),
        ("stylized_style", pa.string()),
        ("stylized_style_fingerprint", pa.string()),
        ("stylized_base", pa.string()),
        ("stylized_mix", pa.string()),
        ("stylized_code", pa.string()),
        ("stylized_provenance", pa.string()),
    ]
)


def check_columns(tables: Sequence[str]) -> None:
    """Raises UserError if an input has a column that the output adds, or if its files differ."""
    first: pa.Schema | None = None
    for location in tables:
        with open_parquet(location) as table:
            schema = table.schema_arrow.remove_metadata()
        clash = [n for n in schema.names if n in OUTPUT_SCHEMA.names]
        if clash:
            raise UserError(
                f"{location}: the output adds column {clash[0]!r}; rename the input's column"
            )
        if first is not None and not schema.equals(first):
            raise UserError(
                f"{location}: its columns are not those of {tables[0]}; Parquet output keeps all "
                "columns of the input, so its files must agree"
            )
        first = schema


def write_tables(folder: JobFolder, job: JobSpec, tables: Sequence[str]) -> None:
    """Write OUTPUT/part-*.parquet from the part files, in parallel, and delete the part files."""
    import ray

    place = folder.place
    if place.changed(FINISHED) is not None and not place.list(PARTS):
        return
    write = ray.remote(_write_file).options(num_cpus=0.1)
    done = {key: part for key, part in folder.parts.items() if folder.done(*key)}
    pending: list[Any] = []
    count = folder.manifest.num_rows
    for k, start in enumerate(range(0, count, PHOTOS_PER_FILE)):
        stop = min(start + PHOTOS_PER_FILE, count)
        parts = {key: part for key, part in done.items() if start <= key[0] < stop}
        pending.append(write.remote(job, k, (start, stop), parts, list(tables)))
        if len(pending) >= 8:  # bounds memory: each task holds the photos of a file
            ready, pending = ray.wait(pending)
            ray.get(ready)
    ray.get(pending)
    place.write(FINISHED, b"")
    if folder.count(FAILED) == 0:
        # With failures, the parts are kept: a later --retry-errors writes the tables again.
        place.delete_folder(PARTS)


def _write_file(
    job: JobSpec,
    number: int,
    span: tuple[int, int],
    parts: dict[tuple[int, int], str],
    tables: list[str],
) -> None:
    """Write the output file of the photos from span[0] to span[1]."""
    outputs = read_parts(job.folder, parts)
    manifest = manifest_rows(job.folder, range(*span))
    rows, source = [], []
    for i, row in enumerate(manifest):
        for target in row["targets"]:
            if (data := outputs.get((span[0] + i, target))) is None:
                continue
            mix = job.targets[target].mix
            rows.append(
                {
                    "stylized": data,
                    "stylized_id": output_id(row, json.dumps(mix.to_dict())),
                    "stylized_style": "+".join(job.styles[s.style].reference for s in mix.styles),
                    **_told(data),
                }
            )
            source.append(span[0] + i)
    table = pa.Table.from_pylist(rows, schema=OUTPUT_SCHEMA)
    if tables:
        table = _join_columns(_input_rows(tables, span), [s - span[0] for s in source], table)
    name, data = f"part-{number:05d}.parquet", parquet_bytes(table, row_group_size=64)
    open_store(job.output).write(name, data)


def _told(data: bytes) -> dict[str, str]:
    """Columns with the provenance of an output; without provenance they stay null."""
    info = read_provenance(data)
    if info is None:
        return {}
    return {
        "stylized_key": info.source,
        "stylized_style_fingerprint": "+".join(s.fingerprint for s in info.styles),
        "stylized_base": info.base,
        "stylized_mix": json.dumps(info.mix.to_dict()),
        "stylized_code": info.code,
        "stylized_provenance": json.dumps(info.to_text()),
    }


def read_parts(job: str, parts: Mapping[tuple[int, int], str]) -> dict[tuple[int, int], bytes]:
    """The encoded outputs by (photo, target). parts: the names of their part files."""
    found: dict[tuple[int, int], bytes] = {}
    for name in sorted(set(parts.values())):
        table = pq.read_table(pa.BufferReader(open_store(job).read(part_name(name))))
        for index, target, data in zip(*(c.to_pylist() for c in table.columns), strict=True):
            if parts.get((index, target)) == name:
                found[index, target] = data
    return found


def _input_rows(tables: list[str], span: tuple[int, int]) -> pa.Table:
    """The rows of the input from span[0] to span[1], counted over all its files."""
    slices, before = [], 0
    for location in tables:
        with open_parquet(location) as table:
            for group in range(table.metadata.num_row_groups):
                rows = table.metadata.row_group(group).num_rows
                start, stop = max(span[0], before), min(span[1], before + rows)
                if start < stop:
                    group_rows = without_views(table.read_row_group(group))
                    slices.append(group_rows.slice(start - before, stop - start))
                before += rows
    return pa.concat_tables(slices)


def without_views(table: pa.Table) -> pa.Table:
    """The table with text and bytes of view types as large ones, whose rows Arrow can choose."""
    for i, field in enumerate(table.schema):
        if pa.types.is_string_view(field.type) or pa.types.is_binary_view(field.type):
            large = pa.large_string() if pa.types.is_string_view(field.type) else pa.large_binary()
            table = table.set_column(i, field.with_type(large), table[i].cast(large))
    return table


def _join_columns(inputs: pa.Table, order: list[int], outputs: pa.Table) -> pa.Table:
    """The outputs beside their input rows. order: the input row of each output."""
    table = inputs.take(pa.array(order, pa.int64())).replace_schema_metadata(None)
    for name in outputs.column_names:
        table = table.append_column(outputs.schema.field(name), outputs[name])
    return table

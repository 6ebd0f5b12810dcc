"""Parquet outputs: the parts of all batches, put in the input's order beside its columns.

However often a job was killed, the same parts' rows end in the same files with the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from osasis.bundles.provenance import read_provenance
from osasis.errors import UserError
from osasis.storage import write_atomic
from pipelines.job_folder import FAILED, JobFolder
from pipelines.job_spec import JobSpec
from pipelines.manifest import row_id
from pipelines.source import open_parquet

# Photos an output file. Those of one file are in memory together, encoded.
PHOTOS_A_FILE = 256
FINISHED = "tables-finished"


def own_schema() -> pa.Schema:
    """The columns that a Parquet output has beside those of its input."""
    return pa.schema(
        [
            ("stylized", pa.large_binary()),
            ("stylized_id", pa.string()),
            ("stylized_key", pa.string()),
            ("stylized_style", pa.string()),
            ("stylized_style_fingerprint", pa.string()),
            ("stylized_base", pa.string()),
            ("stylized_mix", pa.string()),
            ("stylized_seed", pa.string()),
            ("stylized_code", pa.string()),
            ("stylized_provenance", pa.string()),
        ]
    )


def check_columns(tables: Sequence[str]) -> None:
    """Raises UserError where an input has a column that an output adds, or its files differ."""
    first: pa.Schema | None = None
    for place in tables:
        with open_parquet(place) as table:
            schema = table.schema_arrow.remove_metadata()
        clash = [n for n in schema.names if n in own_schema().names]
        if clash:
            raise UserError(f"{place}: the output adds column {clash[0]!r}; rename the input's")
        if first is not None and not schema.equals(first):
            raise UserError(
                f"{place}: its columns are not those of {tables[0]}; Parquet output keeps all "
                "columns of the input, so its files must agree"
            )
        first = schema


def write_tables(folder: JobFolder, job: JobSpec, tables: Sequence[str]) -> None:
    """Write OUTPUT/part-*.parquet from the parts, in parallel, and drop the parts."""
    import ray

    mark = folder.path / FINISHED
    if mark.is_file() and not (folder.path / "parts").exists():
        return
    write = ray.remote(_write_file).options(num_cpus=0.1)
    done = {key: part for key, part in folder.parts.items() if folder.done(*key)}
    pending: list[Any] = []
    for k, span in enumerate(_spans(folder.manifest)):
        parts = {key: p for key, p in done.items() if key[0] in span}
        pending.append(write.remote(job, k, (span.start, span.stop), parts, list(tables)))
        if len(pending) >= 8:  # bounded: each holds a file's photos
            ready, pending = ray.wait(pending)
            ray.get(ready)
    ray.get(pending)
    write_atomic(mark, b"")
    if folder.count(FAILED) == 0:
        # A later --retry-errors writes the tables again, with the rows that were done before.
        shutil.rmtree(folder.path / "parts", ignore_errors=True)


def _spans(manifest: pa.Table) -> Iterator[range]:
    """The photos of each output file."""
    count = manifest.num_rows
    yield from (range(s, min(s + PHOTOS_A_FILE, count)) for s in range(0, count, PHOTOS_A_FILE))


def _write_file(
    job: JobSpec,
    number: int,
    span: tuple[int, int],
    parts: dict[tuple[int, int], str],
    tables: list[str],
) -> None:
    pixels = _pixels(job, parts)
    manifest = pq.read_table(f"{job.folder}/manifest.parquet").slice(span[0], span[1] - span[0])
    rows, source = [], []
    for i, row in enumerate(manifest.to_pylist()):
        for target in row["targets"]:
            if (data := pixels.get((span[0] + i, target))) is None:
                continue
            about = read_provenance(data)
            assert about is not None
            rows.append(
                {
                    "stylized": data,
                    "stylized_id": row_id(row, json.dumps(job.targets[target].mix.to_dict())),
                    "stylized_key": about.source,
                    "stylized_style": "+".join(s.reference for s in about.styles),
                    "stylized_style_fingerprint": "+".join(s.fingerprint for s in about.styles),
                    "stylized_base": about.base,
                    "stylized_mix": json.dumps(about.mix.to_dict()),
                    "stylized_seed": str(about.mix.seed),
                    "stylized_code": about.code,
                    "stylized_provenance": json.dumps(about.to_text()),
                }
            )
            source.append(span[0] + i)
    table = pa.Table.from_pylist(rows, schema=own_schema())
    if tables:
        table = _beside(_input_rows(tables, span), [s - span[0] for s in source], table)
    path = Path(job.output) / f"part-{number:05d}.parquet"
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=64)
    write_atomic(path, sink.getvalue().to_pybytes())


def _pixels(job: JobSpec, parts: dict[tuple[int, int], str]) -> dict[tuple[int, int], bytes]:
    """The encoded outputs, from the part files that hold them."""
    found: dict[tuple[int, int], bytes] = {}
    for name in sorted(set(parts.values())):
        table = pq.read_table(os.path.join(job.folder, "parts", name[:2], name))  # noqa: PTH118
        for index, target, data in zip(*(c.to_pylist() for c in table.columns), strict=True):
            if parts.get((index, target)) == name:
                found[index, target] = data
    return found


def _input_rows(tables: list[str], span: tuple[int, int]) -> pa.Table:
    """The rows of the input that the manifest's photos are."""
    taken, before = [], 0
    for place in tables:
        with open_parquet(place) as table:
            for group in range(table.metadata.num_row_groups):
                rows = table.metadata.row_group(group).num_rows
                start, stop = max(span[0], before), min(span[1], before + rows)
                if start < stop:
                    taken.append(table.read_row_group(group).slice(start - before, stop - start))
                before += rows
    return pa.concat_tables(taken)


def _beside(given: pa.Table, order: list[int], made: pa.Table) -> pa.Table:
    table = given.take(pa.array(order, pa.int64())).replace_schema_metadata(None)
    for name in made.column_names:
        table = table.append_column(made.schema.field(name), made[name])
    return table

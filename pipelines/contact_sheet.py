"""The contact sheet: some photos in all their styles on one page that needs nothing else."""

from __future__ import annotations

import base64
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from factory.core.html import render_report
from osasis.errors import UserError
from osasis.images.decoding import load_image
from osasis.mix import Mix
from osasis.storage import write_atomic
from pipelines.job_folder import JobFolder
from pipelines.job_spec import JobSpec
from pipelines.manifest import shown
from pipelines.result import StylizeResult
from pipelines.source import read_group, read_photo

PHOTOS, TARGETS, REASONS = 24, 12, 20
SIDE = 220


@dataclass(frozen=True)
class Cell:
    """A place of the sheet: an image (source, a data URI), or why there is none."""

    alt: str = ""
    source: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """A photo and its outputs."""

    name: str
    cells: list[Cell]

    @property
    def name_parts(self) -> list[str]:
        """The name in parts after which a long name may break."""
        return re.findall(r"[^/_.-]*[/_.-]+|[^/_.-]+$", self.name)


def write_contact(path: Path, result: StylizeResult, job: JobSpec, folder: JobFolder) -> None:
    """Write the sheet: up to PHOTOS photos, evenly spread, in up to TARGETS targets."""
    targets = list(range(len(job.targets)))[:TARGETS]
    tables = _table_outputs(folder) if job.options.format == "parquet" else {}
    rows = [_row(index, targets, tables, job, folder) for index in _chosen(folder)]
    page = render_report(
        "pipelines",
        "contact.html.j2",
        filters={},
        title=f"{_count(result.images, 'image')} of {_count(result.photos, 'photo')}",
        meta=", ".join(result.styles),
        stats=_stats(result),
        targets=[(job.targets[t].label, _changes(job.targets[t].mix)) for t in targets],
        rows=rows,
        more=_more(result, len(rows), len(targets), len(job.targets)),
        reasons=list(result.reasons.items())[:REASONS],
    )
    write_atomic(path, page.encode("utf-8", "backslashreplace"))


def _row(
    index: int,
    targets: list[int],
    tables: dict[tuple[int, int], bytes],
    job: JobSpec,
    folder: JobFolder,
) -> Row:
    listing = {n: folder.manifest[n][index].as_py() for n in folder.manifest.column_names}
    cells = [Cell("the photo", _thumbnail(_photo(listing, job)))]
    for target in targets:
        if target in listing["targets"] and folder.done(index, target):
            data = tables.get((index, target)) if tables else _output(job, listing, target)
            cells.append(Cell(job.targets[target].label, _thumbnail(data)))
        elif (failure := folder.failures.get((index, target))) is not None:
            cells.append(Cell(reason=failure.reason))
        else:
            cells.append(Cell())
    return Row(shown(listing["key"]), cells)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _chosen(folder: JobFolder) -> list[int]:
    """Photos to show, evenly spread; those with an output before those without."""
    count = folder.manifest.num_rows
    spread = sorted({i * count // min(count, 4 * PHOTOS) for i in range(min(count, 4 * PHOTOS))})
    good = [i for i in spread if (folder.state[folder.first[i] : folder.first[i + 1]] == 1).any()]
    picked = [good[i * len(good) // PHOTOS] for i in range(PHOTOS)] if len(good) > PHOTOS else good
    return sorted(set(picked))


def _photo(listing: dict[str, Any], job: JobSpec) -> bytes | None:
    place = os.fsdecode(listing["path"])
    try:
        if listing["row"] < 0:
            return read_photo(place)
        for _, data in read_group(place, listing["group"], job.image, [listing["row"]]):
            return data
    except (UserError, OSError):
        pass
    return None


def _output(job: JobSpec, listing: dict[str, Any], target: int) -> bytes | None:
    try:
        return job.output_path(listing["name"], target).read_bytes()
    except OSError:
        return None


def _table_outputs(folder: JobFolder) -> dict[tuple[int, int], bytes]:
    """Outputs of the photos to show, from the parts, or from the first file that is finished."""
    wanted = set(_chosen(folder))
    found: dict[tuple[int, int], bytes] = {}
    for name in sorted({p for (i, _), p in folder.parts.items() if i in wanted}):
        path = folder.path / "parts" / name[:2] / name
        if path.is_file():
            table = pq.read_table(path)
            for index, target, data in zip(*(c.to_pylist() for c in table.columns), strict=True):
                if index in wanted:
                    found[index, target] = data
    return found


def _thumbnail(data: bytes | None) -> str | None:
    if data is None:
        return None
    try:
        image = load_image(data, target=SIDE, min_side=1)
    except UserError:
        return None
    side = max(image.size)
    scale = SIDE / side if side > SIDE else max(1, SIDE // (2 * side))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _changes(mix: Mix) -> str:
    """What a mix changes of its defaults."""
    return ", ".join(f"{name} {value}" for name, value in mix.changes().items())


def _stats(result: StylizeResult) -> list[tuple[str, str, bool]]:
    rate = result.done_now / max(result.seconds, 1e-9)
    return [
        ("photos", f"{result.photos:,}", False),
        ("images", f"{result.images:,}", False),
        ("failed", f"{result.failed:,}", result.failed > 0),
        ("this run", f"{result.done_now:,} in {result.seconds:.0f} s", False),
        ("images a second", f"{rate:.2f}", False),
        ("model busy", f"{result.model_share:.0%}", False),
    ]


def _more(result: StylizeResult, rows: int, shown_targets: int, targets: int) -> str:
    told = []
    if rows < result.photos:
        told.append(f"{rows} of {result.photos:,} photos are shown")
    if shown_targets < targets:
        told.append(f"{shown_targets} of {targets} ways")
    if result.stopped:
        told.append(result.stopped)
    return "; ".join(told)

"""The contact sheet: one self-contained HTML page with a sample of photos and their outputs."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from factory.core.html import render_report
from factory.core.stores import open_store
from osasis.bundles.provenance import source_name
from osasis.errors import UserError
from osasis.images.decoding import load_image, load_sized
from osasis.mix import Mix
from pipelines.job_folder import DONE, PARTS, JobFolder, part_name
from pipelines.job_spec import JobSpec
from pipelines.manifest import printable
from pipelines.parquet_output import read_parts
from pipelines.photo_mask import read_photo_mask
from pipelines.read_squares import fetchers
from pipelines.result import CONTACT, StylizeResult

# Most rows, columns and error reasons of a sheet.
MAX_PHOTOS, MAX_TARGETS, MAX_REASONS = 24, 12, 20
THUMBNAIL_SIDE = 220


@dataclass(frozen=True)
class Cell:
    """A cell of the sheet: an image with its alternative text, an error, or nothing.

    source: the image as a data URI; None if it cannot be shown. reason: of a failed output.
    """

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
        """The name split where a long name may wrap."""
        return re.findall(r"[^/_.-]*[/_.-]+|[^/_.-]+$", self.name)


def write_contact_sheet(result: StylizeResult, job: JobSpec, folder: JobFolder) -> None:
    """Write a sheet of up to MAX_PHOTOS photos, evenly spread, and MAX_TARGETS targets."""
    targets = range(min(len(job.targets), MAX_TARGETS))
    photos = _sample_photos(folder)
    tables = _parquet_outputs(folder, photos) if job.options.format == "parquet" else {}
    rows = [_sheet_row(index, targets, tables, job, folder) for index in photos]
    page = render_report(
        "pipelines",
        "contact.html.j2",
        filters={},
        title=f"{_count(result.images, 'image')} of {_count(result.photos, 'photo')}",
        meta=", ".join(result.styles),
        stats=_stats(result),
        masked=job.photo_masks is not None,
        targets=[(job.targets[t].label, _mix_text(job.targets[t].mix)) for t in targets],
        rows=rows,
        footnote=_footnote(result, len(rows), len(targets), len(job.targets)),
        reasons=list(result.reasons.items())[:MAX_REASONS],
    )
    folder.output.write(CONTACT, page.encode("utf-8", "backslashreplace"))


def _sheet_row(
    index: int,
    targets: Sequence[int],
    tables: dict[tuple[int, int], bytes],
    job: JobSpec,
    folder: JobFolder,
) -> Row:
    listing = {n: folder.manifest[n][index].as_py() for n in folder.manifest.column_names}
    photo, mask = _photo_and_mask(listing, job)
    cells = [Cell("the photo", _thumbnail(photo))]
    if job.photo_masks is not None:
        cells.append(Cell("its mask", _thumbnail(mask)))
    for target in targets:
        if target in listing["targets"] and folder.done(index, target):
            data = tables.get((index, target)) if tables else _read_output(job, listing, target)
            cells.append(Cell(job.targets[target].label, _thumbnail(data)))
        elif (failure := folder.failures.get((index, target))) is not None:
            cells.append(Cell(reason=failure.reason))
        else:
            cells.append(Cell())
    return Row(_shown_name(index, listing, job), cells)


def _shown_name(index: int, listing: dict[str, Any], job: JobSpec) -> str:
    """The photo's name as far as the outputs tell it."""
    level = job.options.provenance
    if level == "none":
        return f"photo {index + 1}"
    return source_name(printable(listing["key"]), level)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _sample_photos(folder: JobFolder) -> list[int]:
    """Rows of the manifest to show, evenly spread, among photos with an output."""
    candidates = _spread(range(folder.manifest.num_rows), 4 * MAX_PHOTOS)
    done = folder.state == DONE
    usable = [i for i in candidates if done[folder.first[i] : folder.first[i + 1]].any()]
    return _spread(usable, MAX_PHOTOS)


def _spread(items: Sequence[int], most: int) -> list[int]:
    """At most ``most`` items, evenly spread."""
    count = min(len(items), most)
    return [items[i * len(items) // count] for i in range(count)]


def _photo_and_mask(row: dict[str, Any], job: JobSpec) -> tuple[bytes | None, bytes | None]:
    """A photo's bytes, and its mask as a PNG; a proposed mask is made again, with equal pixels."""
    for _, fetch, fetch_mask in fetchers([row], job):
        try:
            photo = fetch()
            if job.photo_masks is None:
                return photo, None
            size = load_sized(photo, target=THUMBNAIL_SIDE)[1]
        except (UserError, OSError):
            break
        return photo, read_photo_mask(photo, fetch_mask, size, job).png
    return None, None


def _read_output(job: JobSpec, listing: dict[str, Any], target: int) -> bytes | None:
    try:
        return open_store(job.output).read(job.output_name(listing["name"], target))
    except OSError:
        return None


def _parquet_outputs(folder: JobFolder, photos: Sequence[int]) -> dict[tuple[int, int], bytes]:
    """Outputs of some photos, by (photo, target), from the part files that still exist."""
    wanted = set(photos)
    there = set(folder.place.list(PARTS))
    parts = {
        key: name
        for key, name in folder.parts.items()
        if key[0] in wanted and part_name(name) in there
    }
    return read_parts(folder.place.location, parts)


def _thumbnail(data: bytes | None) -> str | None:
    if data is None:
        return None
    try:
        image = load_image(data, target=THUMBNAIL_SIDE, min_side=1)
    except UserError:
        return None
    side = max(image.size)
    scale = THUMBNAIL_SIDE / side if side > THUMBNAIL_SIDE else max(1, THUMBNAIL_SIDE // (2 * side))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _mix_text(mix: Mix) -> str:
    """The mix fields that differ from their defaults, as text."""
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


def _footnote(result: StylizeResult, rows: int, shown_targets: int, targets: int) -> str:
    notes = []
    if rows < result.photos:
        notes.append(f"{rows} of {result.photos:,} photos are shown")
    if shown_targets < targets:
        notes.append(f"{shown_targets} of {targets} mixes are shown")
    if result.stopped:
        notes.append(result.stopped)
    return "; ".join(notes)

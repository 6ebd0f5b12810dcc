"""The contact sheet: some photos in all their styles on one page that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
import os
import re
from pathlib import Path
from string import Template
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

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
TEMPLATE = Path(__file__).parent / "templates" / "contact.html"


def write_contact(path: Path, result: StylizeResult, job: JobSpec, folder: JobFolder) -> None:
    """Write the sheet: up to PHOTOS photos, evenly spread, in up to TARGETS targets."""
    targets = list(range(len(job.targets)))[:TARGETS]
    tables = _table_outputs(folder) if job.options.format == "parquet" else {}
    labels = [t.label for t in job.targets]
    rows = []
    for index in _chosen(folder):
        listing = {n: folder.manifest[n][index].as_py() for n in folder.manifest.column_names}
        cells = [_cell(_photo(listing, job), "the photo")]
        for target in targets:
            if target in listing["targets"] and folder.done(index, target):
                data = tables.get((index, target)) if tables else _output(job, listing, target)
                cells.append(_cell(data, labels[target]))
            elif (failure := folder.failures.get((index, target))) is not None:
                cells.append(f'<td class="failed"><p>{html.escape(failure.reason)}</p></td>')
            else:
                cells.append("<td></td>")
        name = html.escape(shown(listing["key"]))
        # Long names break where their parts end.
        broken = re.sub(r"([/_.-]+)", r"\1<wbr>", name)
        rows.append(f'<tr><th scope="row" title="{name}">{broken}</th>{"".join(cells)}</tr>')
    heads = "".join(
        f'<th scope="col">{html.escape(labels[t])}{_small(job.targets[t].mix)}</th>'
        for t in targets
    )
    page = Template(TEMPLATE.read_text()).substitute(
        title=html.escape(f"{_count(result.images, 'image')} of {_count(result.photos, 'photo')}"),
        meta=html.escape(", ".join(result.styles)),
        stats=_stats(result),
        heads=f'<th scope="col">photo</th>{heads}',
        rows="\n".join(rows),
        more=html.escape(_more(result, len(rows), len(targets), len(labels))),
        errors=_errors(result),
    )
    write_atomic(path, page.encode("utf-8", "backslashreplace"))


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


def _cell(data: bytes | None, alt: str) -> str:
    source = _thumbnail(data)
    if source is None:
        return '<td><div class="blank">not shown</div></td>'
    return f'<td><img loading="lazy" alt="{html.escape(alt)}" src="{source}"></td>'


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


def _small(mix: Mix) -> str:
    """What a mix changes, below its name."""
    told = [f"{name} {value}" for name, value in mix.changes().items()]
    return f"<small>{html.escape(', '.join(told))}</small>" if told else ""


def _stats(result: StylizeResult) -> str:
    rate = result.done_now / max(result.seconds, 1e-9)
    facts = [
        ("photos", f"{result.photos:,}"),
        ("images", f"{result.images:,}"),
        ("failed", f"{result.failed:,}"),
        ("this run", f"{result.done_now:,} in {result.seconds:.0f} s"),
        ("images a second", f"{rate:.2f}"),
        ("model busy", f"{result.model_share:.0%}"),
    ]
    return "".join(
        f"<div{' class=alarm' if name == 'failed' and result.failed else ''}>"
        f"<dt>{name}</dt><dd>{value}</dd></div>"
        for name, value in facts
    )


def _more(result: StylizeResult, rows: int, shown_targets: int, targets: int) -> str:
    told = []
    if rows < result.photos:
        told.append(f"{rows} of {result.photos:,} photos are shown")
    if shown_targets < targets:
        told.append(f"{shown_targets} of {targets} ways")
    if result.stopped:
        told.append(result.stopped)
    return "; ".join(told)


def _errors(result: StylizeResult) -> str:
    if not result.reasons:
        return ""
    rows = "".join(
        f"<tr><td>{count:,}</td><td>{html.escape(reason)}</td></tr>"
        for reason, count in list(result.reasons.items())[:REASONS]
    )
    return (
        "<section><h2>Errors by reason</h2><table class=reasons><tbody>"
        f"{rows}</tbody></table><p class=meta>All of them are in errors.parquet.</p></section>"
    )

"""`style-factory stylize`: a corpus of photos through registered styles, on Ray Data.

A row is a photo; bytes are read, decoded and encoded inside the actors, so that nothing larger
than a path travels between operators. A photo is encoded once and decoded for each style. A bad
photo is a row with its reason; nothing else stops.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from factory import __version__
from factory.edits import find_text_edit
from factory.home import Home
from factory.registry import Registry, StyleVersion
from osasis.base import read_base_info
from osasis.config import DiffAEConfig
from osasis.errors import ImageError, UserError
from osasis.images import FITS, find_images
from osasis.mix import Mix
from osasis.settings import TrainSettings, did_you_mean

# Photos a batch: one forward pass's worth (osasis.stylize.chunk_size), so that none is filled up
# in vain and the actors end together.
BATCH_CPU, BATCH_GPU = 4, 16
ERRORS = "errors.parquet"
SUMMARY = "summary.json"


@dataclass(frozen=True)
class StylizeResult:
    """A run over a corpus. errors: path and reason of every photo without all its outputs."""

    photos: int
    styles: tuple[str, ...]
    images: int
    errors: tuple[dict[str, str], ...]
    output: Path
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "output": str(self.output), "seconds": round(self.seconds, 2)}


def stylize(
    styles: list[str],
    source: str | Path,
    output: str | Path,
    *,
    home: Home | None = None,
    mix: dict[str, Any] | None = None,
    fit: str = "crop",
    workers: int | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> StylizeResult:
    """Stylize every photo of a folder (or one photo) with every style.

    styles: ``name``, ``name@alias`` or ``name:version``. output: gets one folder a style with a
    PNG a photo, ``errors.parquet`` and ``summary.json``. mix: fields of ``osasis.mix.Mix`` other
    than the styles. Raises UserError for mistakes that concern the whole run.
    """
    home = home or Home.find()
    if fit not in FITS:
        raise UserError(
            f"unknown fit {fit!r}: choose one of {', '.join(FITS)}{did_you_mean(fit, FITS)}"
        )
    if not styles:
        raise UserError("no style is named; name at least one")
    photos, root = _photos(Path(source))
    if Path(source).is_dir() and Path(output).resolve().is_relative_to(Path(source).resolve()):
        raise UserError(f"output {output} lies inside input {source}; choose another folder")
    registry = Registry(home)
    versions = [registry.resolve(s) for s in styles]
    folders = {v.style: str(v.folder()) for v in versions}
    if len(folders) < len(versions):
        raise UserError("the same style is named twice; name one version of it")
    base = _base_folder(home, versions)
    rows = _plan(photos, root, Path(output))
    wanted = _whole_mix(home, base, sorted(folders), mix or {})
    job = {
        "base": str(base),
        "styles": folders,
        "versions": {v.style: v.reference for v in versions},
        "mix": wanted.to_dict(),
        "text_edits": str(home.text_edits),
        "output": str(Path(output).resolve()),
        "fit": fit,
    }
    report(f"{len(photos)} photo(s) x {len(versions)} style(s) to {output}")
    started = time.perf_counter()
    done = _run(rows, job, workers)
    seconds = time.perf_counter() - started
    errors = tuple(
        {"path": r["path"].decode("utf-8", "backslashreplace"), "reason": r["error"]}
        for r in done
        if r["error"]
    )
    result = StylizeResult(
        len(photos),
        tuple(v.reference for v in versions),
        sum(r["images"] for r in done),
        errors,
        Path(output),
        seconds,
    )
    _write_report(result)
    report(
        f"{result.images} image(s) in {seconds:.1f} s "
        f"({result.images / max(seconds, 1e-9):.1f} a second), {len(errors)} photo(s) failed"
    )
    return result


def _photos(source: Path) -> tuple[list[Path], Path]:
    if source.is_file():
        return [source], source.parent
    if not source.is_dir():
        raise UserError(f"{source}: no such folder or photo")
    return find_images(source), source


def _base_folder(home: Home, versions: list[StyleVersion]) -> Path:
    """The base that all styles share. Raises UserError where they do not, or it is not here."""
    wanted = {v.base for v in versions}
    if len(wanted) > 1:
        named = ", ".join(f"{v.reference} on {v.base}" for v in versions)
        raise UserError(f"these styles belong to different bases; stylize base by base ({named})")
    for name in home.base_names():
        if read_base_info(home.bases / name)["fingerprint"] in wanted:
            return home.bases / name
    raise UserError(
        f"the base of {versions[0].reference} ({versions[0].base}) is not in {home.bases}; "
        "import it"
    )


def _whole_mix(home: Home, base: Path, styles: list[str], fields: dict[str, Any]) -> Mix:
    """The mix, checked against the base and the kept text edits before anything runs."""
    if "styles" in fields:
        raise UserError("mix: name the styles themselves, not as a mix parameter")
    mix = Mix.from_dict({"styles": styles, **fields})
    info = read_base_info(base)
    if problems := mix.problems(DiffAEConfig.from_dict(info["config"])):
        raise UserError("mix: " + "; ".join(problems))
    if mix.text_edit is not None:
        find_text_edit(home, mix.text_edit, info["fingerprint"])
    return mix


def _plan(photos: list[Path], root: Path, output: Path) -> pa.Table:
    """The corpus as a table: path, and the output's path below each style's folder.

    Both as bytes, as file names are: not every name is text.
    """
    relative = [p.relative_to(root) for p in photos]
    shared = Counter(str(r.with_suffix("")).lower() for r in relative)
    # a.jpg beside a.png: both keep their suffix, so that neither takes the other's name.
    names = [
        r.with_suffix(".png").as_posix()
        if shared[str(r.with_suffix("")).lower()] == 1
        else f"{r.as_posix()}.png"
        for r in relative
    ]
    paths = [os.fsencode(p.resolve()) for p in photos]
    return pa.table({"path": paths, "name": [os.fsencode(n) for n in names]})


def _run(rows: pa.Table, job: dict[str, Any], workers: int | None) -> list[dict[str, Any]]:
    # Read when Ray starts: its progress bars and its notices about its own actors would stand
    # between the lines of ours.
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    from factory.bulk import start_ray

    start_ray()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    count = workers or gpus or int(resources.get("CPU", 1))
    count = max(1, min(count, -(-rows.num_rows // 4)))
    # Blocks are made here: an operator that splits would wait for a CPU that the actors hold.
    size = BATCH_GPU if gpus else BATCH_CPU
    blocks = [rows.slice(start, size) for start in range(0, rows.num_rows, size)]
    dataset = ray.data.from_arrow(blocks)
    out = dataset.map_batches(
        StylizeBatch,
        fn_constructor_kwargs={"job": job, "device": "cuda" if gpus else "cpu"},
        batch_size=size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=count, max_size=count),
        num_cpus=0 if gpus else 1,
        num_gpus=min(1.0, gpus / count) if gpus else 0,
    )
    return list(out.take_all())


class StylizeBatch:
    """An actor's work: decode, stylize and write a batch of photos."""

    def __init__(self, job: dict[str, Any], device: str) -> None:
        import torch

        from osasis.base import load_base
        from osasis.style import load_style
        from osasis.text_edit import load_text_edit

        if device == "cpu":
            torch.set_num_threads(1)
        self.job, self.device = job, device
        self.base = load_base(Path(job["base"]), device)
        self.styles = {
            name: load_style(Path(folder), self.base).to(device)
            for name, folder in job["styles"].items()
        }
        self.mix = Mix.from_dict(job["mix"])
        self.text_edits = {}
        if (name := self.mix.text_edit) is not None:
            edit = load_text_edit(Path(job["text_edits"]) / name, self.base.fingerprint)
            self.text_edits[name] = edit.direction.to(device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        import torch

        from osasis.images import load_square

        rows = [{**row, "images": 0, "error": ""} for row in batch.to_pylist()]
        loaded = []
        for row in rows:
            path, size = os.fsdecode(row["path"]), self.base.config.image_size
            try:
                loaded.append((row, load_square(path, size, self.job["fit"])))
            except ImageError as e:
                row["error"] = e.reason
        if loaded:
            self._stylize([r for r, _ in loaded], torch.stack([p for _, p in loaded]))
        return pa.Table.from_pylist(rows)

    def _stylize(self, rows: list[dict[str, Any]], photos: Any) -> None:
        """Encode once for each way of encoding that the styles want, decode for each style."""
        from factory.work import describe_failure
        from osasis.images import png_bytes, tensor_to_image
        from osasis.storage import write_atomic
        from osasis.stylize import Encodings, decode, encode

        encodings: dict[tuple[Any, ...], Encodings] = {}
        for name, style in self.styles.items():
            s = style.settings
            t0 = self.mix.t0 if self.mix.t0 is not None else s.t0
            steps = self.mix.encode_steps or s.stylize_encode_steps
            key = (t0, steps, s.precision)
            if key not in encodings:
                encodings[key] = encode(
                    self.base, photos.to(self.device), t0=t0, steps=steps, precision=s.precision
                )
            mix = Mix.from_dict({**self.mix.to_dict(), "styles": [name]})
            images = decode(
                self.base,
                encodings[key],
                mix,
                {name: style},
                text_edits=self.text_edits,
                precision=s.precision,
            )
            text = self._provenance(name, style.settings, mix)
            for row, image in zip(rows, images, strict=True):
                path = Path(self.job["output"]) / name / os.fsdecode(row["name"])
                try:
                    write_atomic(path, png_bytes(tensor_to_image(image), text))
                except (OSError, ValueError) as e:  # a full disk; an image that holds NaN
                    row["error"] = f"{name}: {describe_failure(e)}"
                else:
                    row["images"] += 1

    def _provenance(self, style: str, settings: TrainSettings, mix: Mix) -> dict[str, str]:
        return {
            "Software": f"style-factory {__version__}",
            "style": self.job["versions"][style],
            "base": self.base.fingerprint,
            "mix": json.dumps(mix.to_dict()),
        }


def _write_report(result: StylizeResult) -> None:
    from osasis.storage import write_json

    write_json(result.output / SUMMARY, result.to_dict())
    path = result.output / ERRORS
    if result.errors:
        pq.write_table(pa.Table.from_pylist(list(result.errors)), path)
    else:
        path.unlink(missing_ok=True)

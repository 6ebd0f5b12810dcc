"""`style-factory train`: from a catalog to registered styles and a gallery."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from factory.catalog import CatalogEntry, load_catalog
from factory.fingerprint import fingerprint
from factory.home import Home
from factory.registry import PREVIEWS_TAG, Registry, StyleVersion
from factory.work import StyleTask, describe_failure
from osasis.base import Base, load_base, photo_tensor
from osasis.contents import HELD_OUT
from osasis.errors import UserError
from osasis.images import find_images, load_square
from osasis.settings import TrainSettings
from osasis.storage import save_tensors, sha256_file, sha256_text
from osasis.style import load_style

PREVIEW_COUNT = 6

Report = Callable[[str], None]


@dataclass(frozen=True)
class StyleResult:
    """How one style of a run ended: registered, skipped (was registered before) or failed."""

    id: str
    state: str
    version: int | None = None
    reason: str | None = None
    seconds: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainResult:
    """A run of ``train``. gallery: the HTML report."""

    styles: tuple[StyleResult, ...]
    gallery: Path
    folder: Path
    seconds: float

    @property
    def failed(self) -> tuple[StyleResult, ...]:
        return tuple(s for s in self.styles if s.state == "failed")

    def to_dict(self) -> dict[str, Any]:
        return {
            "styles": [asdict(s) for s in self.styles],
            "gallery": str(self.gallery),
            "folder": str(self.folder),
            "seconds": round(self.seconds, 2),
        }


def train(
    catalog: str | Path,
    *,
    home: Home | None = None,
    base: str | None = None,
    preset: str = "fast",
    overrides: dict[str, Any] | None = None,
    slots: int | None = None,
    previews: str | Path | None = None,
    report: Report = lambda line: None,
) -> TrainResult:
    """Train a catalog's styles on Ray, register them, write the gallery.

    base: name of a base; None takes the only one. overrides: training settings for the whole
    run. slots: styles trained at once; None is one a GPU, or a CPU. previews: photos to show
    every style on; None takes the base's own. report: gets a line at each event.
    Styles whose fingerprint is registered are skipped. Raises UserError for mistakes that
    concern the whole run; a style that fails is in the result.
    """
    home = home or Home.find()
    with home.locked("train"):
        return _train(catalog, home, base, preset, overrides or {}, slots, previews, report)


def _train(
    catalog: str | Path,
    home: Home,
    base: str | None,
    preset: str,
    overrides: dict[str, Any],
    slots: int | None,
    previews: str | Path | None,
    report: Report,
) -> TrainResult:
    started = time.perf_counter()
    entries = load_catalog(Path(catalog), preset, overrides)
    base_folder = home.base_folder(base)
    loaded = load_base(base_folder)
    photos = _preview_photos(loaded, previews)
    registry = Registry(home)
    plan = [_planned(e, loaded, preset, overrides, registry) for e in entries]
    waiting = [p for p in plan if p.registered is None and p.reason is None]
    report(
        f"{len(entries)} style(s) on base {loaded.name}: {len(waiting)} to train, "
        f"{sum(p.registered is not None for p in plan)} registered before"
    )
    folder = home.jobs / f"train-{time.strftime('%Y%m%d-%H%M%S')}-{_job_key(plan)}"
    preview_file = folder / "previews.safetensors"
    save_tensors(preview_file, {"photos": photos})
    results = {p.entry.id: _settled(p) for p in plan}
    if waiting:
        for result in _train_waiting(
            waiting, home, loaded, base_folder, folder, preview_file, registry, slots, report
        ):
            results[result.id] = result
    seconds = time.perf_counter() - started
    outcome = TrainResult(tuple(results.values()), folder / "gallery.html", folder, seconds)
    from factory.report import write_run_gallery

    write_run_gallery(outcome, entries, loaded, photos, sha256_file(preview_file), registry)
    return outcome


@dataclass(frozen=True)
class _Planned:
    entry: CatalogEntry
    settings: TrainSettings
    fingerprint: str
    registered: StyleVersion | None
    reason: str | None = None


def _planned(
    entry: CatalogEntry, base: Base, preset: str, overrides: dict[str, Any], registry: Registry
) -> _Planned:
    settings = entry.settings(preset, overrides)
    try:
        image = entry.image.read_bytes()
        counterpart = entry.counterpart.read_bytes() if entry.counterpart else None
    except OSError as e:
        return _Planned(entry, settings, "", None, f"{e.filename}: {e.strerror}")
    key = fingerprint(image, counterpart, base.fingerprint, settings.to_dict())
    return _Planned(entry, settings, key, registry.find(entry.id, key))


def _settled(p: _Planned) -> StyleResult:
    if p.registered is not None:
        return StyleResult(p.entry.id, "skipped", p.registered.version)
    return StyleResult(p.entry.id, "failed", reason=p.reason)


def _train_waiting(
    waiting: list[_Planned],
    home: Home,
    base: Base,
    base_folder: Path,
    folder: Path,
    previews: Path,
    registry: Registry,
    slots: int | None,
    report: Report,
) -> list[StyleResult]:
    from factory import bulk
    from factory.banks import ensure_banks
    from factory.progress import Progress

    bulk.start_ray(slots)
    banks = ensure_banks(home.banks, base_folder, base, [p.settings for p in waiting], report)
    tasks = [
        StyleTask(
            id=p.entry.id,
            image=str(p.entry.image.resolve()),
            counterpart=str(p.entry.counterpart.resolve()) if p.entry.counterpart else None,
            fingerprint=p.fingerprint,
            settings=p.settings.to_dict(),
            # Named by fingerprint below the home: the next run finds the checkpoint.
            folder=str(home.path / "styles-in-training" / f"{p.entry.id}-{p.fingerprint}"),
            bank=str(bank) if bank else None,
            tags=p.entry.tags,
            licence=p.entry.licence,
        )
        for p, bank in zip(waiting, banks, strict=True)
    ]
    plan = bulk.plan_slots(slots, len(tasks))
    report(f"training on {plan.count} {'GPU' if plan.gpus else 'CPU'} slot(s)")
    job = bulk.TrainingJob(folder, base_folder, previews, tasks)
    by_id = {task.id: task for task in tasks}
    key = sha256_file(previews)
    results: dict[str, StyleResult] = {}
    progress = Progress(report)

    def on_progress(snapshot: bulk.Snapshot) -> None:
        """Register each style when it is done: a killed run loses none that were."""
        progress(snapshot)
        for style, state in snapshot.items():
            if state["state"] == "done" and style not in results:
                results[style] = _register(by_id[style], base, registry, key, report)

    outcome = bulk.run_job(job, plan, on_progress)
    for style, state in outcome.states.items():
        if style not in results:
            results[style] = StyleResult(style, "failed", reason=state["reason"])
    return [results[task.id] for task in tasks]


def _register(
    task: StyleTask, base: Base, registry: Registry, previews: str, report: Report
) -> StyleResult:
    """Register a trained style after reading its bundle back; whatever goes wrong is its own."""
    folder = Path(task.folder)
    try:
        result = json.loads((folder / "result.json").read_text())
        style = load_style(folder / "style", base)
        broken = [k for k, v in style.delta.items() if not bool(torch.isfinite(v).all())]
        if broken:
            raise UserError(f"its weights are not finite (first: {broken[0]})")
        version = registry.register(
            task.id,
            folder / "style",
            fingerprint=task.fingerprint,
            base=base.fingerprint,
            params=task.settings,
            history=result["history"],
            metrics=result["metrics"],
            tags={
                "base_name": base.name,
                "licence": task.licence,
                "tags": ",".join(task.tags),
                PREVIEWS_TAG: previews,
            },
            previews=folder / "previews",
        )
    except Exception as e:
        reason = describe_failure(e)
        report(f"{task.id}: not registered: {reason}")
        return StyleResult(task.id, "failed", reason=reason)
    shutil.rmtree(folder)
    report(f"{task.id}: registered as version {version.version}")
    seconds = round(result["seconds"], 2)
    return StyleResult(task.id, "registered", version.version, None, seconds, result["metrics"])


def _preview_photos(base: Base, given: str | Path | None) -> torch.Tensor:
    """(N, 3, H, W) in [-1, 1]: the photos that the gallery shows every style on."""
    if given is not None:
        paths = find_images(given)[:PREVIEW_COUNT]
        return torch.stack([load_square(p, base.config.image_size) for p in paths])
    if base.photos is None:
        raise UserError(
            f"base {base.name!r} has no photos of its own: give a folder with --previews"
        )
    # Training draws from the others (see osasis.contents).
    return photo_tensor(base.photos[-HELD_OUT:])


def _job_key(plan: list[_Planned]) -> str:
    return sha256_text(json.dumps([p.fingerprint for p in plan]))[:6]

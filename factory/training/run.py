"""`style-factory train`: from a catalog to registered styles and a gallery."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from factory.catalog import load_catalog
from factory.core.bases import example_photos
from factory.core.claims import Claims
from factory.core.failures import KINDS
from factory.core.home import Home
from factory.core.uris import public
from factory.registry import Listing, Registry, list_versions, load_mlflow
from factory.registry.gate import Condition, parse_gate
from factory.reports.progress import Display, make_display
from factory.reports.results import BankResult, StyleResult, TrainResult
from factory.training.content_banks import Bank, Photos, ensure_banks
from factory.training.lease_queue import FAILED, RETRIES, RETRY_ON
from factory.training.plan import Planned, make_plan
from factory.training.registrar import Registrar
from factory.training.staged_images import StagedImages
from factory.training.style_worker import CHECKPOINT, StyleTask
from osasis.bundles.base import Base, load_base, photo_tensor
from osasis.contents import HELD_OUT
from osasis.errors import UserError
from osasis.images.listing import find_images
from osasis.images.tensors import load_square
from osasis.storage import save_tensors, sha256_file, write_atomic

PREVIEW_COUNT = 6
# How often a run looks whether another job has finished a style that both want.
LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class TrainOptions:
    """What a run may choose beside its catalog; see ``train``."""

    preset: str = "fast"
    overrides: dict[str, Any] = field(default_factory=dict)
    slots: int | None = None
    gpus_per_slot: float | None = None
    retries: int = RETRIES
    retry_on: tuple[str, ...] = RETRY_ON
    gate: tuple[Condition, ...] = ()


def train(
    catalog: str | Path,
    *,
    home: Home | str | Path | None = None,
    base: str | None = None,
    preset: str = "fast",
    overrides: dict[str, Any] | None = None,
    slots: int | None = None,
    gpus_per_slot: float | None = None,
    retries: int = RETRIES,
    retry_on: Sequence[str] = RETRY_ON,
    gate: Sequence[str] = (),
    contents: str | Path | None = None,
    previews: str | Path | None = None,
    progress: str = "none",
    report: Callable[[str], None] | None = None,
) -> TrainResult:
    """Train a catalog's styles on Ray, register them, write the gallery.

    base: name of a base; None takes the only one. overrides: training settings for the whole
    run. slots: styles trained at once; None is one a GPU, or a CPU. gpus_per_slot: such as 0.5.
    retries, retry_on: how often a style is tried again after which kinds of failures. gate:
    conditions such as ``style_distance<=0.8``, beside the catalog's own; a style that misses one
    is registered as candidate. contents: folder of photos to train on instead of the base's.
    previews: photos to show every style on; None takes the base's own. progress: auto, table,
    lines, json or none; report gets the lines instead of standard error.

    Styles whose fingerprint is registered are skipped; one that another job trains at this moment
    is waited for. Raises UserError for mistakes that concern the whole run; a style that fails is
    in the result.
    """
    if not isinstance(home, Home):
        home = Home.find(str(home) if home is not None else None)
    if unknown := [k for k in retry_on if k not in KINDS]:
        raise UserError(f"retry-on {unknown[0]!r} is unknown: choose of {', '.join(KINDS)}")
    if retries < 0:
        raise UserError(f"retries is {retries}; it must be at least 0")
    if report is not None and progress == "none":
        progress = "lines"
    options = TrainOptions(
        preset, overrides or {}, slots, gpus_per_slot, retries, tuple(retry_on), parse_gate(gate)
    )
    with make_display(progress, report) as display:
        return TrainingRun(home, options, display).train(Path(catalog), base, contents, previews)


class TrainingRun:
    """One run of ``train``: its job folder, claims and results."""

    def __init__(self, home: Home, options: TrainOptions, display: Display) -> None:
        self.home, self.options, self.display = home, options, display
        self.report = display.say
        self.started = time.perf_counter()
        self.results: dict[str, StyleResult] = {}
        self.banks: dict[Path, Bank] = {}
        # Two runs of the same second and catalog are two jobs.
        self.job = f"train-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        self.folder = self.home.jobs / self.job
        self.images = StagedImages(self.folder / "images")

    def train(
        self,
        catalog: Path,
        base: str | None,
        contents: str | Path | None,
        previews: str | Path | None,
    ) -> TrainResult:
        try:
            return self._train(catalog, base, contents, previews)
        finally:
            self.images.delete()
            with contextlib.suppress(OSError):  # a run that fails early has no other file
                self.folder.rmdir()

    def _train(
        self,
        catalog: Path,
        base: str | None,
        contents: str | Path | None,
        previews: str | Path | None,
    ) -> TrainResult:
        options = self.options
        read = load_catalog(
            catalog, options.preset, options.overrides, self.images.read, self.report
        )
        gate = (*options.gate, *read.gate)
        self.base_folder = self.home.base_folder(base)
        self.base = load_base(self.base_folder)
        photos = _preview_photos(self.base, previews, self.report)
        size = self.base.config.image_size
        self.photos = None
        if contents:
            self.photos = Photos(example_photos(Path(contents), size, 4096, self.report))
        plan = make_plan(
            read.entries,
            options.preset,
            options.overrides,
            self.base,
            self.photos.fingerprint if self.photos is not None else None,
            list_versions(self.home),
            self.images,
        )
        self.previews = self.folder / "previews.safetensors"
        save_tensors(self.previews, {"photos": photos})
        previews_key = sha256_file(self.previews)
        self.results = {p.entry.id: p.settled() for p in plan}
        waiting = [p for p in plan if p.waits]
        broken = [p for p in plan if p.reason is not None]
        self.report(
            f"{len(plan)} style(s) on base {self.base.name}: {len(waiting)} to train, "
            f"{sum(p.registered is not None for p in plan)} registered before"
            + (f", {len(broken)} that cannot be trained" if broken else "")
        )
        self.display.update(
            {p.entry.id: {"state": FAILED, "reason": p.reason, "kind": p.kind} for p in broken}
        )
        if waiting:
            self.registrar = Registrar(self._start(), self.base, gate, previews_key, self.report)
            self._train_all(waiting)
        from factory.reports.run_gallery import write_run_gallery

        seconds = time.perf_counter() - self.started
        gallery = self.folder / "gallery.html"
        banks = tuple(BankResult(b.contents, b.seconds) for b in self.banks.values())
        result = TrainResult(tuple(self.results.values()), gallery, self.folder, seconds, banks)
        write_run_gallery(
            result,
            read.entries,
            self.base,
            photos,
            previews_key,
            list_versions(self.home),
            self.images.read,
        )
        write_atomic(self.folder / "result.json", json.dumps(result.to_dict(), indent=2).encode())
        return result

    def _start(self) -> Registry:
        """Start Ray, and meanwhile open the registry: a new one takes seconds, as Ray does."""
        from factory.core.ray_cluster import start_ray

        # Here: two threads that import the same packages at once can each get half of one. What
        # Ray's start and the opening still import has nothing in common.
        load_mlflow()
        with ThreadPoolExecutor(1) as pool:
            opened = pool.submit(Registry, self.home)
            start_ray(self.options.slots)
            registry = opened.result()
        self.report(f"styles are registered in {public(self.home.tracking_uri)}")
        return registry

    def _train_all(self, waiting: list[Planned]) -> None:
        """Train what no other job trains, in rounds until every style is settled."""
        claims = Claims(self.home.claims, self.job)
        told = False
        try:
            while waiting:
                mine: list[Planned] = []
                others: list[Planned] = []
                for p in waiting:
                    (others if claims.acquire(p.claim) else mine).append(p)
                if mine:
                    self._train_round(mine, claims)
                elif not told:
                    names = ", ".join(p.entry.id for p in others[:5])
                    self.report(f"waiting for another job that trains {names}")
                    told = True
                if others:
                    time.sleep(LOOK_SECONDS)
                waiting = self._not_registered_elsewhere(others)
        finally:
            claims.close()

    def _not_registered_elsewhere(self, plan: list[Planned]) -> list[Planned]:
        """Those of a plan that no other job has registered by now; the others are settled."""
        listing, left = Listing(self.home), []
        for p in plan:
            version = listing.find(p.entry.id, p.fingerprint)
            if version is None:
                left.append(p)
                continue
            self.results[p.entry.id] = replace(p, registered=version).settled()
            self.report(f"{p.entry.id}: another job registered it as version {version.version}")
        return left

    def _train_round(self, plan: list[Planned], claims: Claims) -> None:
        from factory.training import slots as bulk

        # Another job may have registered one between the plan and the claim.
        plan = self._not_registered_elsewhere(plan)
        if not plan:
            return
        banks = ensure_banks(
            self.home.banks,
            self.base_folder,
            self.base,
            [p.settings for p in plan],
            self.report,
            claims,
            self.photos,
        )
        self.banks |= {b.folder: b for b in banks if b is not None}
        tasks = [self._task(p, b, claims) for p, b in zip(plan, banks, strict=True)]
        by_id = {p.entry.id: (p, t, b) for p, t, b in zip(plan, tasks, banks, strict=True)}
        options = self.options
        slots = bulk.plan_slots(options.slots, len(tasks), options.gpus_per_slot)
        self.report(
            f"job {self.job}: training on {slots.count} {'GPU' if slots.gpus else 'CPU'} slot(s)"
        )
        job = bulk.TrainingJob(
            self.folder, self.base_folder, self.previews, tasks, options.retries, options.retry_on
        )
        settled: set[str] = set()

        def on_progress(snapshot: bulk.Snapshot) -> None:
            """Register each style when it is done: a killed run loses none that were."""
            self.display.update(snapshot)
            for style, state in snapshot.items():
                if state["state"] not in ("done", "failed") or style in settled:
                    continue
                settled.add(style)
                planned, task, bank = by_id[style]
                self._settle(planned, task, bank, state, claims)

        # Queue files of an earlier round are of other styles.
        (self.folder / "queue.json").unlink(missing_ok=True)
        bulk.run_job(job, slots, on_progress)

    def _task(self, p: Planned, bank: Bank | None, claims: Claims) -> StyleTask:
        # Named by fingerprint, so that a later run finds the checkpoint.
        folder = self.home.training / p.claim
        counterpart = p.entry.counterpart
        return StyleTask(
            id=p.entry.id,
            image=str(self.images.path(p.entry.image)),
            counterpart=str(self.images.path(counterpart)) if counterpart else None,
            fingerprint=p.fingerprint,
            settings=p.settings.to_dict(),
            folder=str(folder),
            bank=str(bank.folder) if bank is not None else None,
            tags=p.entry.tags,
            licence=p.entry.licence,
            source=p.entry.image,
            claim=str(claims.path(p.claim)),
            job=self.job,
        )

    def _settle(
        self,
        p: Planned,
        task: StyleTask,
        bank: Bank | None,
        state: dict[str, Any],
        claims: Claims,
    ) -> None:
        """Register a style that is trained, or note why it failed."""
        attempts = state.get("attempts", 1)
        if state["state"] == "failed":
            result = StyleResult(
                p.entry.id, "failed", reason=state["reason"], kind=state.get("kind")
            )
            if not (Path(task.folder) / CHECKPOINT).is_file():
                shutil.rmtree(task.folder, ignore_errors=True)  # nothing to continue from
        elif not claims.held(p.claim):
            reason = "another job has taken it over; run the same command again"
            result = StyleResult(p.entry.id, "failed", reason=reason, kind="superseded")
        else:
            result = self.registrar.register(task)
        self.results[p.entry.id] = replace(result, attempts=attempts)
        claims.release(p.claim)


def _preview_photos(
    base: Base, given: str | Path | None, report: Callable[[str], None]
) -> torch.Tensor:
    """(N, 3, H, W) in [-1, 1]: the photos that the gallery shows every style on."""
    if given is not None:
        paths = find_images(given, report)[:PREVIEW_COUNT]
        return torch.stack([load_square(p, base.config.image_size) for p in paths])
    if base.photos is None:
        raise UserError(
            f"base {base.name!r} has no photos of its own: give a folder with --previews"
        )
    # Training draws from the others (see osasis.contents).
    return photo_tensor(base.photos[-HELD_OUT:])

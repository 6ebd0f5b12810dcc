"""`style-factory train`: trains and registers the styles of a catalog."""

from __future__ import annotations

import contextlib
import hashlib
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from factory.catalog import load_catalog
from factory.core.bases import example_photos
from factory.core.claims import LEASE_SECONDS, Claims
from factory.core.disk import disk_named
from factory.core.failures import KINDS, SUPERSEDED
from factory.core.home import Home
from factory.core.object_store import StoreError
from factory.core.stores import open_store
from factory.core.uris import redact
from factory.core.work_folder import WorkFolder
from factory.methods import LoadedBase, load_base
from factory.methods.interface import Bank, ContentPhotos
from factory.registry import Registry, RegistrySnapshot, list_versions, load_mlflow
from factory.registry.gate import Condition, parse_gate
from factory.reports.progress import Display, make_display
from factory.reports.results import BankResult, StyleResult, TrainResult
from factory.reports.style_states import Done, Failed, Snapshot
from factory.training.lease_queue import QUEUE, RETRIES, RETRY_ON
from factory.training.live_runs import LiveRuns
from factory.training.plan import PlannedStyle, make_plan
from factory.training.registrar import Registrar
from factory.training.staged_images import StagedImages
from factory.training.style_worker import CHECKPOINT, StyleTask
from osasis.errors import UserError
from osasis.images.listing import find_images
from osasis.images.tensors import from_uint8, load_square
from osasis.storage import DiskFullError, write_json

PREVIEW_COUNT = 6
# In a run's folder: its style images, its preview photos, and its result.
IMAGES, PREVIEWS, RESULT = "images", "previews.safetensors", "result.json"
# Seconds between checks for styles that another job trains.
POLL_SECONDS = 2.0


@dataclass(frozen=True)
class TrainOptions:
    """Options of a run; see ``train``."""

    preset: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    slots: int | None = None
    gpus_per_slot: float | None = None
    retries: int = RETRIES
    retry_on: tuple[str, ...] = RETRY_ON
    gate: tuple[Condition, ...] = ()
    estimate: bool = False


def train(
    catalog: str | Path,
    *,
    home: Home | str | Path | None = None,
    base: str | None = None,
    preset: str | None = None,
    overrides: dict[str, Any] | None = None,
    slots: int | None = None,
    gpus_per_slot: float | None = None,
    retries: int = RETRIES,
    retry_on: Sequence[str] = RETRY_ON,
    gate: Sequence[str] = (),
    contents: str | Path | None = None,
    previews: str | Path | None = None,
    progress: str = "none",
    estimate: bool = False,
    report: Callable[[str], None] | None = None,
) -> TrainResult:
    """Train a catalog's styles on Ray, register them, and write the gallery.

    catalog: path or URI. base: name of a base; None takes the only one. preset: None takes the
    base's own. overrides: training settings of the whole run. slots: styles trained at once; None
    is one per GPU, or per CPU without GPUs. gpus_per_slot: such as 0.5. retries: of a style after
    failures of the kinds ``retry_on``. gate: conditions such as ``style_distance<=0.8``, added to
    the catalog's; a style that misses one is registered as candidate. contents: folder of photos to
    train on instead of the base's own. previews: photos to show every style on; None takes the
    base's own.
    progress: auto, table, lines, json or none. estimate: train nothing, and fill ``estimate`` of
    the result. report: receives the lines instead of standard error.

    Styles whose fingerprint is registered are skipped. If another job is training a style, the run
    waits for it. Raises UserError for errors of the whole run, and DiskFullError, after which the
    same call trains the remaining styles; failed styles are in the result.
    """
    if not isinstance(home, Home):
        home = Home.find(str(home) if home is not None else None)
    if unknown := [k for k in retry_on if k not in KINDS]:
        raise UserError(f"unknown retry-on {unknown[0]!r}: choose from {', '.join(KINDS)}")
    if retries < 0:
        raise UserError(f"retries is {retries}; it must be at least 0")
    if report is not None and progress == "none":
        progress = "lines"
    options = TrainOptions(
        preset, overrides or {}, slots, gpus_per_slot, retries, tuple(retry_on), parse_gate(gate),
        estimate,
    )  # fmt: skip
    with make_display(progress, report) as display:
        run = TrainingRun(home, options, display)
        try:
            with disk_named(home.path):
                return run.train(catalog, base, contents, previews)
        finally:
            run.delete_staged_images()


class TrainingRun:
    """A run of ``train``: job folder, base and results."""

    def __init__(self, home: Home, options: TrainOptions, display: Display) -> None:
        self.home, self.options, self.display = home, options, display
        self.report = display.message
        self.started = time.perf_counter()
        self.results: dict[str, StyleResult] = {}
        self.banks: dict[str, Bank] = {}
        # The suffix tells apart runs that start in the same second.
        self.job = f"train-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        self.folder = self.home.jobs / self.job
        self.location = self.home.shared(self.folder)
        self.images = StagedImages(self.folder / IMAGES, f"{self.location}/{IMAGES}")

    def train(
        self,
        catalog: str | Path,
        base: str | None,
        contents: str | Path | None,
        previews: str | Path | None,
    ) -> TrainResult:
        options = self.options
        self.base_folder = self.home.base_folder(base)
        self.base = load_base(self.base_folder)
        preset = options.preset or self.base.preset
        loaded = load_catalog(
            catalog, preset, options.overrides, self.images.read, self.report, self.base.method
        )
        gate = (*options.gate, *loaded.gate)
        photos = _preview_photos(self.base, previews, self.report)
        size = self.base.image_size
        self.photos = None
        if contents and not self.base.method.models_photos:
            raise UserError(
                f"--contents: styles of method {self.base.method.name}, which is that of base "
                f"{self.base.name}, train on the style image alone; leave it out"
            )
        if contents:
            self.photos = ContentPhotos(example_photos(Path(contents), size, 4096, self.report))
        plan = make_plan(
            loaded.entries,
            preset,
            options.overrides,
            self.base,
            self.photos.fingerprint if self.photos is not None else None,
            list_versions(self.home),
            self.images,
        )
        self.results = {p.entry.id: p.result() for p in plan}
        waiting = [p for p in plan if p.needs_training]
        preview_file = save({"photos": photos.contiguous()})
        previews_key = hashlib.sha256(preview_file).hexdigest()
        failed: Snapshot = {p.entry.id: p.failure for p in plan if p.failure is not None}
        self.report(
            f"{len(plan)} style(s) on base {self.base.name}: {len(waiting)} to train, "
            f"{sum(p.registered is not None for p in plan)} registered before"
            + (f", {len(failed)} that cannot be trained" if failed else "")
        )
        self.display.update(failed)
        if options.estimate:
            return self._estimated(plan, photos)
        if waiting:
            open_store(self.location).write(PREVIEWS, preview_file)
            self.registrar = Registrar(self._start(), self.base, gate, previews_key, self.report)
            try:
                self._train_all(waiting)
            except DiskFullError as e:
                registered = sum(r.state == "registered" for r in self.results.values())
                text = f"{e}; {registered} of {len(waiting)} style(s) are registered"
                raise DiskFullError(e.errno, text) from e
        from factory.reports.run_gallery import write_run_gallery

        seconds = time.perf_counter() - self.started
        gallery = self.folder / "gallery.html"
        banks = tuple(BankResult(b.contents, b.seconds) for b in self.banks.values())
        result = TrainResult(
            tuple(self.results.values()), gallery, self.folder, seconds, banks,
            location=self.location,
        )  # fmt: skip
        try:
            write_run_gallery(
                result,
                loaded.entries,
                self.base,
                photos,
                previews_key,
                list_versions(self.home),
                self.images.read,
            )
            write_json(self.folder / RESULT, result.to_dict())
            WorkFolder(open_store(self.location), self.folder).publish_all(RESULT, [IMAGES])
        except (DiskFullError, StoreError) as e:
            if waiting:
                raise
            self.report(f"no gallery is written: {e}")
        return result

    def _estimated(self, plan: list[PlannedStyle], previews: torch.Tensor) -> TrainResult:
        """A result without training, with the estimate of the plan."""
        from factory.core.ray_cluster import start_ray
        from factory.training.estimate import estimate_training
        from factory.training.slots import plan_slots

        start_ray(self.options.slots)
        waiting = max(1, sum(p.needs_training for p in plan))
        slots = plan_slots(
            self.base_folder, self.options.slots, waiting, self.options.gpus_per_slot
        )
        found = estimate_training(
            plan, self.home, self.base, self.base_folder, slots, list_versions(self.home),
            self.images, previews, self.photos,
        )  # fmt: skip
        gallery = self.folder / "gallery.html"
        return TrainResult(
            tuple(self.results.values()), gallery, self.folder, 0.0, estimate=found.to_dict(),
            location=self.location,
        )  # fmt: skip

    def delete_staged_images(self) -> None:
        """Delete the staged images, and the job folder of a run that wrote nothing else to it."""
        self.images.delete()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _start(self) -> Registry:
        """Start Ray and open the registry."""
        from factory.core.ray_cluster import start_ray

        if self.home.tracking_uri != self.home.own_tracking_uri:
            # Waiting for a server in this thread, so that Ctrl-C ends the wait.
            registry = Registry(self.home)
            start_ray(self.options.slots)
        else:
            # Creating the home's database and starting Ray take seconds each. MLflow is imported
            # before the thread starts: two threads that import the same package at once can see
            # it half initialised. Ray and the registry import no further package in common.
            load_mlflow()
            with ThreadPoolExecutor(1) as pool:
                opened = pool.submit(Registry, self.home)
                start_ray(self.options.slots)
                registry = opened.result()
        self.report(f"styles are registered in {redact(self.home.tracking_uri)}")
        return registry

    def _train_all(self, waiting: list[PlannedStyle]) -> None:
        """Train the styles that no other job trains, in rounds until every style has a result."""
        claims = Claims(self.home.shared(self.home.claims), self.job)
        reported = False
        try:
            while waiting:
                holders = [(p, claims.acquire(p.claim)) for p in waiting]
                claimed = [p for p, holder in holders if holder is None]
                others = [p for p, holder in holders if holder is not None]
                if claimed:
                    others += self._train_round(claimed, claims)
                elif not reported:
                    names = ", ".join(p.entry.id for p in others[:5])
                    jobs = ", ".join(sorted({h.job for _, h in holders if h is not None}))
                    self.report(
                        f"waiting for {jobs} to train {names}; this run takes over from a job "
                        f"without a sign of life for {LEASE_SECONDS:g} s"
                    )
                    reported = True
                if others:
                    time.sleep(POLL_SECONDS)
                waiting = self._not_registered_elsewhere(others)
        finally:
            claims.close()

    def _not_registered_elsewhere(self, plan: list[PlannedStyle]) -> list[PlannedStyle]:
        """The styles that no other job has registered; the others get their result."""
        listing, left = RegistrySnapshot(self.home), []
        for p in plan:
            version = listing.find(p.entry.id, p.fingerprint)
            if version is None:
                left.append(p)
                continue
            self.results[p.entry.id] = replace(p, registered=version).result()
            self.report(f"{p.entry.id}: another job registered it as version {version.version}")
        return left

    def _train_round(self, plan: list[PlannedStyle], claims: Claims) -> list[PlannedStyle]:
        """Train styles that this job has claimed; returns those that other jobs took over."""
        from factory.training.slots import TrainingJob, plan_slots, run_job

        # Another job may have registered a style between the plan and the claim.
        plan = self._not_registered_elsewhere(plan)
        if not plan:
            return []
        banks = self.base.banks(
            [p.settings for p in plan], self.home, self.report, claims, self.photos
        )
        self.banks |= {b.location: b for b in banks if b is not None}
        tasks = [self._task(p, b, claims) for p, b in zip(plan, banks, strict=True)]
        by_id = {p.entry.id: (p, t) for p, t in zip(plan, tasks, strict=True)}
        options = self.options
        slots = plan_slots(self.base_folder, options.slots, len(tasks), options.gpus_per_slot)
        self.report(
            f"job {self.job}: training on {slots.count} {'GPU' if slots.gpus else 'CPU'} slot(s)"
        )
        job = TrainingJob(
            self.location,
            self.home.base_location(self.base_folder),
            f"{self.location}/{PREVIEWS}",
            tasks,
            options.retries,
            options.retry_on,
        )
        live = LiveRuns(self.registrar.registry, {t.id: t for t in tasks}, self.report)
        finished: set[str] = set()
        taken_over: list[PlannedStyle] = []

        def on_progress(snapshot: Snapshot) -> None:
            """Register each style when it is done, so that a killed run keeps it."""
            self.display.update(snapshot)
            live.update(snapshot)
            for style, state in snapshot.items():
                if isinstance(state, (Done, Failed)) and style not in finished:
                    finished.add(style)
                    if _is_taken_over(by_id[style][0], state, claims):
                        live.fail(style, "another job took the style over")
                        taken_over.append(by_id[style][0])
                    else:
                        self._finish_style(*by_id[style], state, claims, live)

        # The queue file of an earlier round lists other styles.
        open_store(self.location).delete([QUEUE])
        run_job(job, slots, on_progress)
        return taken_over

    def _task(self, p: PlannedStyle, bank: Bank | None, claims: Claims) -> StyleTask:
        counterpart = p.entry.counterpart
        return StyleTask(
            id=p.entry.id,
            image=self.images.share(p.entry.image),
            counterpart=self.images.share(counterpart) if counterpart else None,
            fingerprint=p.fingerprint,
            settings=p.settings,
            # The name contains the fingerprint, so that a later run finds the checkpoint.
            folder=self.home.shared(self.home.training / p.claim),
            bank=bank.location if bank is not None else None,
            tags=p.entry.tags,
            licence=p.entry.licence,
            source=p.entry.image,
            claim=claims.location(p.claim),
            job=self.job,
        )

    def _finish_style(
        self,
        p: PlannedStyle,
        task: StyleTask,
        state: Done | Failed,
        claims: Claims,
        live: LiveRuns,
    ) -> None:
        """Register a trained style, or record why it failed."""
        if isinstance(state, Failed):
            live.fail(p.entry.id, state.reason)
            result = StyleResult(p.entry.id, "failed", reason=state.reason, kind=state.kind)
            if CHECKPOINT not in open_store(task.folder).list():
                WorkFolder.at(task.folder).delete()  # no checkpoint to resume from
        else:
            result = self.registrar.register(task, live.take(p.entry.id))
        self.results[p.entry.id] = replace(result, attempts=max(1, state.attempts))
        claims.release(p.claim)


def _is_taken_over(p: PlannedStyle, state: Done | Failed, claims: Claims) -> bool:
    superseded = isinstance(state, Failed) and state.kind == SUPERSEDED
    return superseded or not claims.held(p.claim)


def _preview_photos(
    base: LoadedBase, given: str | Path | None, report: Callable[[str], None]
) -> torch.Tensor:
    """Photos that the gallery shows in every style: (N, 3, H, W) in [-1, 1]."""
    if given is not None:
        paths = find_images(given, report)[:PREVIEW_COUNT]
        return torch.stack([load_square(p, base.image_size) for p in paths])
    if base.held_out is None:
        raise UserError(
            f"base {base.name!r} has no photos of its own: give a folder with --previews"
        )
    return from_uint8(base.held_out)

"""`style-factory base train`: trains a base on photos with Ray Train, on 1 to n workers."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from torch.nn.parallel import DistributedDataParallel

from factory.core.bases import check_name, import_base
from factory.core.claims import LEASE_SECONDS, Claims
from factory.core.disk import disk_named, find_disk_full
from factory.core.failures import (
    DIED,
    DIVERGED,
    ERROR,
    IMAGE,
    INPUT,
    MEMORY,
    describe_failure,
    failure_kind,
)
from factory.core.gpus import check_gpu, cluster_gpus
from factory.core.home import Home
from factory.core.ray_cluster import start_ray
from factory.core.uris import copy_images, is_uri
from osasis.bundles.files import shipped_bases
from osasis.errors import UserError
from osasis.images.grid import save_image_grid
from osasis.images.photo_set import PhotoSet, Report, read_photo_set
from osasis.networks.sizes import DiffAEConfig, load_config
from osasis.pretraining.settings import PretrainSettings
from osasis.pretraining.train_base import WEIGHTS, BaseTraining, Event, Samples
from osasis.pretraining.training_loop import WorkerContext
from osasis.storage import FULL, DiskFullError, disk_full, write_json
from pipelines.base_training_log import EVENTS, SAMPLES, ProgressLog

PHOTOS = "photos.npy"
# Written by the workers: {"finished": bool}, or {"error": message, "kind": kind} after a failure
# that would come again.
OUTCOME = "ended.json"
POLL_SECONDS = 0.5
# Retries of a failure that may pass.
RETRIES = 3


@dataclass(frozen=True)
class BaseTrainingJob:
    """Arguments of the workers of a run.

    start: DiffAE checkpoint to start from. minutes: time limit of this run. gpu: train on one GPU
    for each worker.
    """

    folder: Path
    config: DiffAEConfig
    settings: PretrainSettings
    start: Path | None = None
    minutes: float | None = None
    gpu: bool = False


@dataclass(frozen=True)
class BaseRun:
    """Result of ``train_base``.

    finished: whether the training is complete. folder: state of an incomplete run.
    info: base.json of the finished base, or None. left_out: errors of unreadable photos.
    """

    finished: bool
    folder: Path
    info: dict[str, Any] | None
    left_out: tuple[str, ...]


def train_base(
    name: str,
    images: str | Path,
    *,
    config: str,
    home: Home | None = None,
    overrides: dict[str, Any] | None = None,
    start: Path | None = None,
    workers: int = 1,
    minutes: float | None = None,
    like: str | None = None,
    licence: str = "",
    replace: bool = False,
    report: Report = lambda line: None,
) -> BaseRun:
    """Train the networks of a base on photos and install the base in the home.

    The state of the run is in ``bases-in-training/NAME`` below the home; a call with the same
    arguments resumes it.

    images: a folder or a URI. config: name or file of the networks' sizes. start: a DiffAE
    checkpoint to start from. workers: number of workers, a divisor of ``batch_size``. minutes: time
    limit, after which the run saves a checkpoint and stops. like: the base whose guide and
    perceptual net are copied (default: the shipped base). replace: overwrite a base of this name.
    Raises UserError, and DiskFullError, after which a call with room resumes the run.
    """
    home = home or Home.find()
    home.refuse_store("base train")
    check_name(name, "base")
    sizes = load_config(config)
    settings = PretrainSettings.parse(overrides or {})
    if settings.batch_size % workers:
        raise UserError(
            f"batch_size {settings.batch_size} cannot be shared by {workers} workers; choose a "
            f"multiple of {workers}"
        )
    model = home.base_folder(like) if like else next(iter(shipped_bases().values()))
    folder = home.path / "bases-in-training" / name
    with disk_named(home.path), claimed_base(home, name, report):
        if is_uri(str(images)):
            images = copy_images(str(images), folder / "images")
        photos = _photos(images, sizes.image_size, folder, report)
        # The constructor validates the run before Ray starts.
        BaseTraining(folder, photos, sizes, settings, start=start)
        report(
            f"training base {name} on {len(photos)} photos, {workers} worker(s): "
            f"{settings.iterations} iterations of {settings.batch_size}"
        )
        start_ray(workers)
        job = BaseTrainingJob(
            folder=folder.resolve(),
            config=sizes,
            settings=settings,
            start=start.resolve() if start else None,
            minutes=minutes,
            gpu=_has_gpus(workers),
        )
        finished = _run_workers(job, workers, ProgressLog(home, name, folder, settings, report))
        info = None
        if finished:
            info = import_base(
                home,
                name,
                config=config,
                diffae=folder / WEIGHTS / "diffae.safetensors",
                prior=folder / WEIGHTS / "prior.safetensors" if settings.prior_iterations else None,
                like=model,
                photos=Path(images),
                licence=licence,
                replace=replace,
            )
            shutil.rmtree(folder)
        return BaseRun(finished, folder, info, photos.errors)


@contextlib.contextmanager
def claimed_base(home: Home, name: str, report: Report) -> Iterator[None]:
    """Hold the claim of a base's name; waits while another run trains it."""
    claims, claim = Claims(home.claims, f"base-train-{uuid.uuid4().hex[:12]}"), f"base-{name}"
    reported = False
    try:
        while (holder := claims.acquire(claim)) is not None:
            if not reported:
                report(
                    f"waiting for {holder.job}, which trains base {name}; this run takes over from "
                    f"a run without a sign of life for {LEASE_SECONDS:g} s"
                )
                reported = True
            time.sleep(POLL_SECONDS)
        yield
    finally:
        claims.close()


def _photos(images: str | Path, size: int, folder: Path, report: Report) -> PhotoSet:
    """Decode the photos once into a file that every worker memory-maps."""
    photos = read_photo_set(images, size, report)
    path = folder / PHOTOS
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npy")
    array = photos.photos.numpy()
    try:
        np.save(part, array)
    except OSError as e:
        part.unlink(missing_ok=True)
        if e.errno in (None, *FULL):  # NumPy tells of a full disk without a number
            raise disk_full(folder, e.errno or errno.ENOSPC, array.nbytes) from e
        raise
    part.replace(path)
    return photos


def _run_workers(job: BaseTrainingJob, workers: int, log: ProgressLog) -> bool:
    """Train on Ray Train workers; False if the time limit ended the run.

    A failure that may pass, such as the death of a worker, is retried from the last checkpoint.
    Raises the UserError of a worker, and DiskFullError.
    """
    outcome = job.folder / OUTCOME
    error: Exception | None = None
    for retries_left in range(RETRIES, -1, -1):
        outcome.unlink(missing_ok=True)
        error = _fit(_trainer(job, workers), log)
        ended = json.loads(outcome.read_text()) if outcome.is_file() else {}
        if error is None:
            log.close("FINISHED" if ended["finished"] else "KILLED")
            return bool(ended["finished"])
        full = find_disk_full(error, job.folder)
        if full is not None or "error" in ended or not retries_left:
            break
        log.report(f"{describe_failure(error)}; continuing from the last checkpoint")
    with contextlib.suppress(Exception):  # the first error is the one to raise
        log.close("FAILED")
    if full is not None:
        raise full from error
    if ended.get("kind") in (INPUT, IMAGE, DIVERGED):
        raise UserError(ended["error"])
    assert error is not None
    raise error


def _has_gpus(workers: int) -> bool:
    """Whether the cluster has a GPU for each worker; False where it has none.

    Raises UserError where it has too few, or where PyTorch finds none on a node with GPUs; NCCL
    would end with an error of its own.
    """
    gpus = cluster_gpus()
    if not gpus:
        return False
    if gpus < workers:
        raise UserError(
            f"{workers} workers need a GPU each, but the cluster has {gpus}; give at most {gpus} "
            "worker(s)"
        )
    check_gpu()
    return True


def _trainer(job: BaseTrainingJob, workers: int) -> TorchTrainer:
    return TorchTrainer(
        _train_on_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if job.gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=job.gpu),
        run_config=RunConfig(
            name=f"base-{int(time.time() * 1000)}",
            storage_path=str(job.folder / "ray"),
            # Ray Train would retry permanent failures too; see ``_run_workers``.
            failure_config=FailureConfig(max_failures=0),
        ),
    )


def _fit(trainer: TorchTrainer, log: ProgressLog) -> Exception | None:
    """Run a trainer and copy its events; returns its error."""
    errors: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as e:
            errors.append(e)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    while thread.is_alive():
        time.sleep(POLL_SECONDS)
        log.catch_up()
    log.catch_up()
    return errors[0] if errors else None


def _train_on_worker(config: dict[str, Any]) -> None:
    """The training function of one Ray Train worker. config: the BaseTrainingJob as ``job``."""
    job: BaseTrainingJob = config["job"]
    try:
        _train(job)
    except Exception as e:
        kind = failure_kind(e)
        # Ray Train wraps the error in private classes, so a file passes its message to the driver.
        if kind not in (DIED, MEMORY, ERROR):
            with contextlib.suppress(DiskFullError):
                outcome = {"error": describe_failure(e), "kind": kind}
                write_json(job.folder / OUTCOME, outcome)
        raise


def _train(job: BaseTrainingJob) -> None:
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device() if job.gpu else torch.device("cpu")
    if not job.gpu:
        torch.set_num_threads(1)
    photos = PhotoSet(torch.from_numpy(np.load(job.folder / PHOTOS, mmap_mode="c")))

    def on_event(event: Event) -> None:
        if isinstance(event, Samples):
            name = f"{event.stage}-{event.iteration:07}.png"
            save_image_grid(job.folder / SAMPLES / name, event.images, columns=4)
            line: dict[str, Any] = {"stage": event.stage, "picture": name}
        else:
            line = asdict(event)
        with (job.folder / EVENTS).open("a") as f:
            f.write(json.dumps(line) + "\n")

    worker = WorkerContext(rank, world, device)
    if world > 1:
        worker = WorkerContext(rank, world, device, DistributedDataParallel, _all_reduce_mean)
    finished = BaseTraining(
        job.folder,
        photos,
        job.config,
        job.settings,
        start=job.start,
        worker=worker,
        minutes=job.minutes,
        on_event=on_event,
    ).run()
    if worker.is_leader:
        write_json(job.folder / OUTCOME, {"finished": finished})
    # A barrier: workers wait until the leader has written its files.
    worker.mean(0.0)
    ray.train.report({"finished": finished})


def _all_reduce_mean(value: float) -> float:
    """Average a number over all workers."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = torch.tensor([value], dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()

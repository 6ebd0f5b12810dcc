"""`style-factory base train`: a base of one's own on Ray Train, 1 to n workers."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from factory.core.bases import check_name, import_base
from factory.core.home import Home
from factory.core.uris import copy_pictures, is_uri
from factory.registry import Registry
from osasis.bundles.base import shipped_bases
from osasis.errors import UserError
from osasis.networks.sizes import load_config
from osasis.pretraining.photo_set import PhotoSet, read_photo_set
from osasis.pretraining.settings import PretrainSettings, make_pretrain_settings
from osasis.pretraining.train_base import WEIGHTS, BaseTraining, WorkerContext
from osasis.storage import write_json

EXPERIMENT = "style-factory-bases"
PHOTOS, EVENTS, SAMPLES, RUN_ID = "photos.npy", "events.jsonl", "samples", "mlflow-run.json"
POLL_SECONDS = 0.5

Report = Callable[[str], None]


@dataclass(frozen=True)
class BaseRun:
    """How a run of ``train_base`` ended. info: base.json of the finished base, or None."""

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
    """Train a base's networks on photos, a folder or a URI, and install it in the home.

    The run continues from its folder, ``bases-in-training/NAME`` below the home. start: a DiffAE
    checkpoint to begin with. minutes: stop, resumably, after so long. like: the base whose
    guide and perceptual net it takes; None takes those of the package's own. Raises UserError.
    """
    home = home or Home.find()
    check_name(name, "base")
    sizes = load_config(config)
    settings = make_pretrain_settings(**(overrides or {}))
    if settings.batch_size % workers:
        raise UserError(
            f"batch_size {settings.batch_size} cannot be shared by {workers} workers; choose a "
            f"multiple of {workers}"
        )
    model = home.base_folder(like) if like else next(iter(shipped_bases().values()))
    folder = home.path / "bases-in-training" / name
    with home.locked(f"base-{name}"):
        if is_uri(str(images)):
            images = copy_pictures(str(images), folder / "images")
        photos = _photos(images, sizes.image_size, folder, report)
        # Whatever is wrong with the run is said here, before anything starts.
        BaseTraining(folder, photos, sizes, settings, start=start)
        report(
            f"training base {name} on {len(photos)} photos, {workers} worker(s): "
            f"{settings.iterations} iterations of {settings.batch_size}"
        )
        finished = _run_workers(
            {
                "folder": str(folder),
                "config": sizes.to_dict(),
                "settings": settings.to_dict(),
                "start": str(start.resolve()) if start else None,
                "minutes": minutes,
            },
            workers,
            _Log(home, name, folder, settings, report),
        )
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


def _photos(images: str | Path, size: int, folder: Path, report: Report) -> PhotoSet:
    """Decode the photos once, into a file that every worker maps."""
    photos = read_photo_set(images, size, report)
    path = folder / PHOTOS
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npy")
    np.save(part, photos.photos.numpy())
    part.replace(path)
    return photos


def _run_workers(job: dict[str, Any], workers: int, log: _Log) -> bool:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from factory.core.ray_cluster import start_ray

    start_ray(workers)
    gpu = ray.cluster_resources().get("GPU", 0) >= workers and torch.cuda.is_available()
    trainer = TorchTrainer(
        _work,
        train_loop_config={**job, "gpu": gpu},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
        run_config=RunConfig(
            name=f"base-{int(time.time() * 1000)}",
            storage_path=str(Path(job["folder"]) / "ray"),
            failure_config=FailureConfig(max_failures=3),
        ),
    )
    outcome: list[Any] = []

    def fit() -> None:
        try:
            outcome.append(trainer.fit())
        except Exception as e:
            outcome.append(e)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    while thread.is_alive():
        time.sleep(POLL_SECONDS)
        log.catch_up()
    log.catch_up()
    ended = Path(job["folder"]) / "ended.json"
    if isinstance(outcome[0], Exception):
        log.close("FAILED")
        _raise_cause(outcome[0])
    finished = bool(json.loads(ended.read_text())["finished"])
    log.close("FINISHED" if finished else "KILLED")
    return finished


def _raise_cause(error: Exception) -> None:
    """A worker's UserError as ours; Ray wraps it in its own kinds."""
    text = str(error)
    mark = "osasis.errors.UserError: "
    if mark in text:
        raise UserError(text.split(mark, 1)[1].splitlines()[0])
    raise error


def _work(job: dict[str, Any]) -> None:
    """One worker, run by Ray Train."""
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device() if job["gpu"] else torch.device("cpu")
    if not job["gpu"]:
        torch.set_num_threads(1)
    folder = Path(job["folder"])
    config = load_config_dict(job["config"])
    photos = PhotoSet(torch.from_numpy(np.load(folder / PHOTOS, mmap_mode="c")))
    events = folder / EVENTS

    def on_event(event: dict[str, Any]) -> None:
        if "samples" in event:
            from osasis.images.grid import save_image_grid

            name = f"{event['stage']}-{event['iteration']:07}.png"
            save_image_grid(folder / SAMPLES / name, event["samples"], columns=4)
            event = {"stage": event["stage"], "picture": name}
        with events.open("a") as f:
            f.write(json.dumps(event) + "\n")

    worker = WorkerContext(rank, world, device, *_together(world, device))
    finished = BaseTraining(
        folder,
        photos,
        config,
        PretrainSettings.parse(job["settings"]),
        start=Path(job["start"]) if job["start"] else None,
        worker=worker,
        minutes=job["minutes"],
        on_event=on_event,
    ).run()
    if worker.leads:
        write_json(folder / "ended.json", {"finished": finished})
    # Nobody leaves before the leader has written what the next stage or run reads.
    worker.mean(0.0)
    ray.train.report({"finished": finished})


def load_config_dict(data: dict[str, Any]) -> Any:
    from osasis.networks.sizes import DiffAEConfig

    return DiffAEConfig.parse(data)


def _together(world: int, device: torch.device) -> tuple[Callable[..., Any], Callable[..., float]]:
    """How several workers share gradients and means; nothing to do for one."""
    if world == 1:
        return (lambda module: module), (lambda value: value)
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    def mean(value: float) -> float:
        total = torch.tensor([value], dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return float(total) / world

    return DistributedDataParallel, mean


class _Log:
    """What the leader writes down, told to the terminal and to MLflow by the driver."""

    def __init__(
        self, home: Home, name: str, folder: Path, settings: PretrainSettings, report: Report
    ) -> None:
        self.folder, self.report = folder, report
        self.registry = Registry(home)
        self.client = self.registry.client
        self.run_id = self._run_of(name, settings)
        self.read = 0
        path = folder / EVENTS
        # A resumed run goes on in the same MLflow run; what it told before is there.
        self.read = path.stat().st_size if path.is_file() else 0
        self.told = 0.0

    def _run_of(self, name: str, settings: PretrainSettings) -> str:
        from mlflow.entities import Param

        path = self.folder / RUN_ID
        if path.is_file():
            run_id = str(json.loads(path.read_text())["run"])
            self.client.update_run(run_id, status="RUNNING")
            return run_id
        experiment = self.registry.experiment_id(EXPERIMENT)
        run_id = self.client.create_run(experiment, run_name=name).info.run_id
        params = [Param(k, str(v)) for k, v in settings.to_dict().items()]
        self.client.log_batch(run_id, params=params)
        write_json(path, {"run": run_id})
        return run_id

    def catch_up(self) -> None:
        path = self.folder / EVENTS
        if not path.is_file():
            return
        with path.open("rb") as f:
            f.seek(self.read)
            fresh = f.read()
        whole = fresh.rfind(b"\n") + 1
        self.read += whole
        for line in fresh[:whole].splitlines():
            self._tell(json.loads(line))

    def _tell(self, event: dict[str, Any]) -> None:
        if "picture" in event:
            self.client.log_artifact(
                self.run_id, str(self.folder / SAMPLES / event["picture"]), SAMPLES
            )
            return
        stage, i = event["stage"], event["iteration"]
        self.client.log_metric(self.run_id, f"{stage}.loss", event["loss"], step=i)
        if i == event["of"] or time.monotonic() - self.told > 10:
            self.told = time.monotonic()
            left = (event["of"] - i) * event["seconds"]
            self.report(
                f"{stage} {i}/{event['of']}  loss {event['loss']:.4f}  "
                f"{event['seconds']:.2f} s an iteration, {left / 60:.0f} min to go"
            )

    def close(self, status: str) -> None:
        self.client.set_terminated(self.run_id, status)

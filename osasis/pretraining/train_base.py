"""Training of a base: the diffusion autoencoder, the latent DDIM, then the photo prior.

A run has one folder: ``run.json`` records its inputs, ``<stage>.state.safetensors`` is the
checkpoint of a stage, and ``weights/`` contains finished weights in the key layout of the official
checkpoints. A second call continues an interrupted run. The module runs with torch alone
(``python -m osasis.pretraining.train_base``) or in several workers (``pipelines.base_training``).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from osasis.bundles.importers import read_diffae
from osasis.checkpoints import check_same_run, load_checkpoint, save_checkpoint
from osasis.devices import required_device
from osasis.diffusion import ddim_sample, image_schedule
from osasis.errors import UserError
from osasis.images.grid import save_image_grid
from osasis.images.photo_set import PhotoSet, read_photo_set
from osasis.images.tensors import from_uint8
from osasis.networks.checkpoint_keys import to_official
from osasis.networks.diffae import DiffAE
from osasis.networks.sizes import DiffAEConfig, load_config
from osasis.networks.unet import UNet
from osasis.pretraining.objectives import DiffAEObjective, LatentObjective, PriorObjective
from osasis.pretraining.settings import PretrainSettings
from osasis.pretraining.training_loop import TrainingLoop, WorkerContext
from osasis.seeds import derived_generator, derived_seed, seeded
from osasis.storage import save_tensors, write_json

RUN = "run.json"
WEIGHTS = "weights"
# Iterations that each point of the loss curve averages.
LOG_EVERY = 10


@dataclass(frozen=True)
class LossPoint:
    """A point of a stage's loss curve. of: iterations of the stage. seconds: per iteration."""

    stage: str
    iteration: int
    of: int
    loss: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.stage} {self.iteration}/{self.of}  loss {self.loss:.4f}  "
            f"{self.seconds:.2f} s per iteration"
        )


@dataclass(frozen=True)
class Samples:
    """Photos and their reconstructions, (N, 3, H, W) in [-1, 1]."""

    stage: str
    iteration: int
    images: Tensor


Event = LossPoint | Samples


class BaseTraining:
    """One training run. A folder with a run continues it, and requires its inputs."""

    def __init__(
        self,
        folder: Path,
        photos: PhotoSet,
        config: DiffAEConfig,
        settings: PretrainSettings,
        *,
        start: Path | None = None,
        worker: WorkerContext | None = None,
        minutes: float | None = None,
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> None:
        """start: a DiffAE checkpoint in the official layout to start from.

        minutes: time limit; the run then saves a checkpoint and stops. on_event: called on the
        leading worker. Raises UserError for inputs that do not fit each other or the folder's run.
        """
        self.folder, self.photos, self.config, self.settings = folder, photos, config, settings
        self.worker = worker or WorkerContext()
        self.deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.on_event = on_event if self.worker.is_leader else lambda event: None
        if settings.encoder == "frozen" and start is None:
            raise UserError("encoder 'frozen' needs trained weights; give --start")
        if self.worker.world > settings.batch_size:
            raise UserError(
                f"batch_size {settings.batch_size} is less than the {self.worker.world} workers"
            )
        self._check_run(start)
        with seeded(settings.seed, "pretrain init"):
            self.diffae = DiffAE(config)
            self.prior = None
            if config.prior is not None and settings.prior_iterations:
                self.prior = UNet(config.prior.unet(config.image_size))
        self.stats: tuple[Tensor, Tensor] | None = None
        if start is not None:
            tensors, mean, std = read_diffae(start, config)
            self.diffae.load_state_dict(tensors)
            self.stats = (mean, std)
        for module in (self.diffae, self.prior):
            if module is not None:
                module.to(self.worker.device).to(memory_format=torch.channels_last)

    def run(self) -> bool:
        """Train the unfinished stages. Returns False if the time limit ended the run."""
        return self._train_diffae() and self._train_latent() and self._train_prior()

    def _train_diffae(self) -> bool:
        s = self.settings
        objective = DiffAEObjective(
            self.diffae, train_encoder=s.encoder == "trained", weighting=s.weighting
        )
        batch = partial(self.photos.batch, s.seed, size=s.batch_size)
        path = self._weights("diffae-only")
        if path.is_file():
            objective.load_state_dict(load_file(path))
        elif self._train_stage(objective, "diffae", s.iterations, s.lr, batch):
            self._save_weights(path, objective.state_dict())
        else:
            return False
        self.diffae.requires_grad_(False).eval()
        return True

    def _train_latent(self) -> bool:
        s, path = self.settings, self._weights("diffae")
        if path.is_file():
            return True
        z = self._encode_photos()
        if self.stats is None or s.encoder == "trained":
            self.stats = (z.mean(dim=0, keepdim=True), z.std(dim=0, keepdim=True).clamp_min(1e-6))
        mean, std = self.stats
        normalised = (z - mean) / std

        def batch(i: int) -> Tensor:
            generator = derived_generator(s.seed, f"latent {i}")
            size = max(s.latent_batch_size, self.worker.world)
            return normalised[torch.randint(len(normalised), (size,), generator=generator)]

        objective = LatentObjective(self.diffae.latent_net.requires_grad_(True).train())
        if s.latent_iterations and not self._train_stage(
            objective, "latent", s.latent_iterations, s.latent_lr, batch
        ):
            return False
        # Official checkpoints store some layers twice; safetensors refuses shared memory.
        tensors = {k: v.clone() for k, v in to_official(self.diffae.state_dict()).items()}
        self._save_weights(path, {**tensors, "conds_mean": mean, "conds_std": std})
        return True

    def _train_prior(self) -> bool:
        s, path = self.settings, self._weights("prior")
        if self.prior is None or path.is_file():
            return True
        batch = partial(self.photos.batch, derived_seed(s.seed, "prior"), size=s.batch_size)
        objective = PriorObjective(self.prior).to(self.worker.device)
        if not self._train_stage(objective, "prior", s.prior_iterations, s.lr, batch):
            return False
        self._save_weights(path, self.prior.state_dict())
        return True

    def _train_stage(
        self,
        objective: nn.Module,
        stage: str,
        iterations: int,
        lr: float,
        batch: Callable[[int], Tensor],
    ) -> bool:
        """Train an objective and load the averaged weights into it; False at the time limit."""
        s, loop = self.settings, self._make_loop(objective, stage, iterations, lr)
        total, count, began = 0.0, 0, time.perf_counter()
        while loop.iteration < loop.iterations:
            total, count = total + loop.step(batch(loop.iteration)), count + 1
            i, last = loop.iteration, loop.iteration == loop.iterations
            if i % LOG_EVERY == 0 or last:
                seconds = (time.perf_counter() - began) / count
                loss = self.worker.mean(total / count)
                self.on_event(LossPoint(stage, i, loop.iterations, loss, seconds))
                total, count, began = 0.0, 0, time.perf_counter()
            if i % s.samples_every == 0 and stage == "diffae":
                self.on_event(Samples(stage, i, self._reconstructions(loop)))
            # All workers must stop at the same iteration, so they share the decision.
            late = float(time.monotonic() > self.deadline)
            expired = i % LOG_EVERY == 0 and self.worker.mean(late) > 0
            due = i % s.checkpoint_every == 0 or last or expired
            if due and self.worker.is_leader:
                info = {"iteration": i, "arithmetic": loop.arithmetic}
                save_checkpoint(self._checkpoint(stage), loop.state_tensors(), info)
            if expired and not last:
                return False
        objective.load_state_dict(loop.averaged())
        return True

    def _make_loop(
        self, objective: nn.Module, stage: str, iterations: int, lr: float
    ) -> TrainingLoop:
        """A training loop, resumed from the stage's checkpoint if that exists."""
        s = self.settings
        loop = TrainingLoop(
            objective,
            s,
            iterations=iterations,
            lr=lr,
            seed=derived_seed(s.seed, stage),
            precision=s.precision if stage != "latent" else "float32",
            worker=self.worker,
        )
        path = self._checkpoint(stage)
        if path.is_file():
            tensors, info = load_checkpoint(path)
            loop.load_state(tensors, info["iteration"])
            # A resumed run keeps its arithmetic, whatever ``auto`` means on this machine.
            loop.arithmetic = info.get("arithmetic", loop.arithmetic)
        # After loading: DistributedDataParallel compares the workers' weights when it wraps.
        loop.wrapped = self.worker.wrap(objective)
        return loop

    def _save_weights(self, path: Path, tensors: dict[str, Tensor]) -> None:
        if self.worker.is_leader:
            save_tensors(path, tensors)

    @torch.no_grad()
    def _encode_photos(self) -> Tensor:
        """z of every photo and of its mirror image, (2N, D) on the CPU."""
        codes = []
        for start in range(0, len(self.photos), 64):
            photos = from_uint8(self.photos.photos[start : start + 64].to(self.worker.device))
            for images in (photos, photos.flip(3)):
                codes.append(self.diffae.encoder(images).float().cpu())
        return torch.cat(codes)

    @torch.no_grad()
    def _reconstructions(self, loop: TrainingLoop) -> Tensor:
        """Four photos and their reconstructions from noise and z by the averaged weights."""
        device = self.worker.device
        averaged: Any = loop.ema.module
        photos = from_uint8(self.photos.photos[:4].to(device))
        noise = torch.randn(photos.shape, generator=torch.Generator().manual_seed(0)).to(device)
        z = averaged.encoder(photos)
        made = ddim_sample(lambda x, t: averaged.unet(x, t, z), noise, image_schedule(20))
        return torch.cat([photos, made]).cpu()

    def _checkpoint(self, stage: str) -> Path:
        return self.folder / f"{stage}.state.safetensors"

    def _weights(self, name: str) -> Path:
        return self.folder / WEIGHTS / f"{name}.safetensors"

    def _check_run(self, start: Path | None) -> None:
        """Raise UserError, naming the differences, if the folder contains another run."""
        inputs: dict[str, Any] = {
            "config": self.config.to_dict(),
            "settings": self.settings.to_dict(),
            "photos": self.photos.fingerprint(),
            "start": None if start is None else start.name,
        }
        path = self.folder / RUN
        if not path.is_file():
            if self.worker.is_leader:
                write_json(path, inputs)
            return
        # These settings do not affect the result.
        check_same_run(path, inputs, ("checkpoint_every", "samples_every"))


def main(argv: list[str] | None = None) -> int:
    """Train a base's networks on any machine with torch."""
    parser = argparse.ArgumentParser(
        prog="python -m osasis.pretraining.train_base", description=main.__doc__
    )
    parser.add_argument("--images", required=True, help="folder of photos of one domain")
    parser.add_argument("--config", required=True, help="portraits64, ... or a JSON file")
    parser.add_argument("--out", required=True, type=Path, help="folder of the (resumable) run")
    parser.add_argument("--minutes", type=float, help="time limit; run again to continue")
    parser.add_argument("--start", type=Path, help="DiffAE checkpoint to start from")
    parser.add_argument("--device", help="cpu or cuda (default: cuda if available)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    args = parser.parse_args(argv)
    try:
        settings = PretrainSettings.parse(_assignments(args.set))
        config = load_config(args.config)
        photos = read_photo_set(args.images, config.image_size, _log)
        default = "cuda" if torch.cuda.is_available() else "cpu"
        device = required_device(args.device or default)
        finished = BaseTraining(
            args.out,
            photos,
            config,
            settings,
            start=args.start,
            worker=WorkerContext(device=device),
            minutes=args.minutes,
            on_event=lambda event: _print_event(event, args.out),
        ).run()
    except UserError as e:
        _log(f"error: {e}")
        return 2
    if not finished:
        _log(f"stopped after {args.minutes:g} minute(s); the same command continues")
        return 1
    _log(f"finished: {args.out / WEIGHTS}")
    return 0


def _print_event(event: Event, folder: Path) -> None:
    i = event.iteration
    if isinstance(event, Samples):
        save_image_grid(folder / "samples" / f"{i:07}.png", event.images, columns=4)
    elif i % 100 == 0 or i == event.of:
        _log(str(event))


def _assignments(items: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in items:
        name, found, value = item.partition("=")
        if not found:
            raise UserError(f"--set {item!r}: write NAME=VALUE")
        try:
            values[name] = json.loads(value)
        except json.JSONDecodeError:
            values[name] = value
    return values


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""Training of a base: the diffusion autoencoder, the latent DDIM, then the photo prior.

A run has one folder: ``run.json`` records its inputs, ``<stage>.state.safetensors`` is the
checkpoint of a stage, and ``weights/`` contains finished weights in the key layout of the official
checkpoints. A second call continues an interrupted run. The module runs with torch alone
(``python -m osasis.pretraining.train_base``) or in several workers (``pipelines.base_training``).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from osasis.bundles.importers import read_diffae
from osasis.checkpoints import load_checkpoint, save_checkpoint
from osasis.diffusion import ddim_sample, image_schedule
from osasis.errors import UserError
from osasis.images.grid import save_image_grid
from osasis.images.tensors import from_uint8
from osasis.networks.checkpoint_keys import to_official
from osasis.networks.diffae import DiffAE
from osasis.networks.sizes import DiffAEConfig, load_config
from osasis.networks.unet import UNet
from osasis.pretraining.objectives import DiffAEObjective, LatentObjective, PriorObjective
from osasis.pretraining.photo_set import PhotoSet, read_photo_set
from osasis.pretraining.settings import PretrainSettings, make_pretrain_settings
from osasis.pretraining.training_loop import TrainingLoop
from osasis.seeds import derived_seed, seeded
from osasis.storage import save_tensors, write_json

RUN = "run.json"
WEIGHTS = "weights"
STAGES = ("diffae", "latent", "prior")
# Iterations that one point of the loss curve averages.
LOG_EVERY = 10


@dataclass(frozen=True)
class WorkerContext:
    """One worker among ``world``.

    wrap: wraps a module so that workers share gradients (DistributedDataParallel). mean: the mean
    of a number over all workers.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module
    mean: Callable[[float], float] = lambda value: value

    @property
    def leads(self) -> bool:
        return self.rank == 0


# Receives {"stage", "iteration", "of", "loss", "seconds"} for each point of the loss curve and
# {"stage", "iteration", "samples": (N, 3, H, W)} every ``samples_every`` iterations.
Event = Callable[[dict[str, Any]], None]


class BaseTraining:
    """One run. Its inputs must be those of the run in the folder, where that has one."""

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
        on_event: Event = lambda event: None,
    ) -> None:
        """start: a DiffAE checkpoint in the official layout to start from.

        minutes: time limit, at which the run saves a checkpoint and stops. Raises UserError.
        """
        self.folder, self.photos, self.config, self.settings = folder, photos, config, settings
        self.worker = worker or WorkerContext()
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.on_event = on_event
        if settings.encoder == "frozen" and start is None:
            raise UserError("encoder is 'frozen', which needs trained weights: give --start")
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
        """Train the unfinished stages. Returns False where the time limit ended the run."""
        return self._diffae() and self._latent() and self._prior()

    def _diffae(self) -> bool:
        s = self.settings
        objective = DiffAEObjective(
            self.diffae, train_encoder=s.encoder == "trained", weighting=s.weighting
        )
        done = self._weights("diffae-only")
        if not done.is_file():
            loop = self._loop(objective, "diffae", s.iterations, s.lr)

            def rows(i: int) -> Tensor:
                return self.photos.batch(s.seed, i, s.batch_size)

            if not self._train(loop, "diffae", rows):
                return False
            averaged = loop.averaged()
            if self.worker.leads:
                save_tensors(done, averaged)
            objective.load_state_dict(averaged)
        else:
            objective.load_state_dict(load_file(done))
        self.diffae.requires_grad_(False).eval()
        return True

    def _latent(self) -> bool:
        s, done = self.settings, self._weights("diffae")
        if done.is_file():
            return True
        z = self._codes()
        if self.stats is None or s.encoder == "trained":
            self.stats = (z.mean(dim=0, keepdim=True), z.std(dim=0, keepdim=True).clamp_min(1e-6))
        mean, std = self.stats
        rows_of = (z - mean) / std
        objective = LatentObjective(self.diffae.latent_net.requires_grad_(True).train())
        if s.latent_iterations:
            loop = self._loop(objective, "latent", s.latent_iterations, s.latent_lr)

            def rows(i: int) -> Tensor:
                generator = torch.Generator().manual_seed(derived_seed(s.seed, f"latent {i}"))
                size = max(s.latent_batch_size, self.worker.world)
                return rows_of[torch.randint(len(rows_of), (size,), generator=generator)]

            if not self._train(loop, "latent", rows):
                return False
            objective.load_state_dict(loop.averaged())
        if self.worker.leads:
            # Official checkpoints store some layers twice; safetensors refuses shared memory.
            tensors = {k: v.clone() for k, v in to_official(self.diffae.state_dict()).items()}
            save_tensors(done, {**tensors, "conds_mean": mean, "conds_std": std})
        return True

    def _prior(self) -> bool:
        s, done = self.settings, self._weights("prior")
        if self.prior is None or done.is_file():
            return True
        objective = PriorObjective(self.prior).to(self.worker.device)
        loop = self._loop(objective, "prior", s.prior_iterations, s.lr)

        def rows(i: int) -> Tensor:
            return self.photos.batch(derived_seed(s.seed, "prior"), i, s.batch_size)

        if not self._train(loop, "prior", rows):
            return False
        objective.load_state_dict(loop.averaged())
        if self.worker.leads:
            save_tensors(done, self.prior.state_dict())
        return True

    def _loop(self, objective: nn.Module, stage: str, iterations: int, lr: float) -> TrainingLoop:
        s, w = self.settings, self.worker
        loop = TrainingLoop(
            objective,
            iterations=iterations,
            lr=lr,
            warmup=min(s.warmup, iterations),
            ema=s.ema,
            grad_clip=s.grad_clip,
            seed=derived_seed(s.seed, stage),
            precision=s.precision if stage != "latent" else "float32",
            rank=w.rank,
            world=w.world,
        )
        state = self.folder / f"{stage}.state.safetensors"
        if state.is_file():
            tensors, info = load_checkpoint(state)
            loop.load_state(tensors, info["iteration"])
            # A resumed run continues in the arithmetic that it began in, on any machine.
            loop.arithmetic = info.get("arithmetic", loop.arithmetic)
        # After loading: DistributedDataParallel compares the workers' weights when it wraps.
        loop.wrapped = w.wrap(objective)
        return loop

    def _train(self, loop: TrainingLoop, stage: str, rows: Callable[[int], Tensor]) -> bool:
        s = self.settings
        kept = loop.iteration
        total, count, began = 0.0, 0, time.perf_counter()
        while loop.iteration < loop.iterations:
            total, count = total + loop.step(rows(loop.iteration)), count + 1
            i, last = loop.iteration, loop.iteration == loop.iterations
            if i % LOG_EVERY == 0 or last:
                seconds = (time.perf_counter() - began) / count
                loss = self.worker.mean(total / count)
                self._tell(stage=stage, iteration=i, of=loop.iterations, loss=loss, seconds=seconds)
                total, count, began = 0.0, 0, time.perf_counter()
            if i % s.samples_every == 0 and stage == "diffae":
                self._tell(stage=stage, iteration=i, samples=self._reconstructions(loop))
            # All workers must stop at the same iteration, so they share the decision.
            late = i % LOG_EVERY == 0 and self.worker.mean(float(self._late())) > 0
            if i % s.checkpoint_every == 0 or last or late:
                self._keep(loop, stage)
                kept = i
            if late and not last:
                return False
        if kept != loop.iteration:
            self._keep(loop, stage)
        return True

    def _keep(self, loop: TrainingLoop, stage: str) -> None:
        if self.worker.leads:
            path = self.folder / f"{stage}.state.safetensors"
            info = {"iteration": loop.iteration, "arithmetic": loop.arithmetic}
            save_checkpoint(path, loop.state_tensors(), info)

    def _tell(self, **event: Any) -> None:
        if self.worker.leads:
            self.on_event(event)

    def _late(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline

    @torch.no_grad()
    def _codes(self) -> Tensor:
        """z of every photo and of its mirror image, (2N, D) on the CPU."""
        codes = []
        for start in range(0, len(self.photos), 64):
            rows = self.photos.photos[start : start + 64].to(self.worker.device)
            photos = from_uint8(rows)
            for images in (photos, photos.flip(3)):
                codes.append(self.diffae.encoder(images).float().cpu())
        return torch.cat(codes)

    @torch.no_grad()
    def _reconstructions(self, loop: TrainingLoop) -> Tensor:
        """Four photos, then their reconstructions from noise and z by the averaged weights."""
        device = self.worker.device
        averaged: Any = loop.ema.module
        photos = from_uint8(self.photos.photos[:4].to(device))
        noise = torch.randn(photos.shape, generator=torch.Generator().manual_seed(0)).to(device)
        z = averaged.encoder(photos)
        made = ddim_sample(lambda x, t: averaged.unet(x, t, z), noise, image_schedule(20))
        return torch.cat([photos, made]).cpu()

    def _weights(self, name: str) -> Path:
        return self.folder / WEIGHTS / f"{name}.safetensors"

    def _check_run(self, start: Path | None) -> None:
        """Refuse to continue another run. Raises UserError naming what differs."""
        own = {
            "config": json.loads(json.dumps(self.config.to_dict())),
            "settings": self.settings.to_dict(),
            "photos": self.photos.fingerprint(),
            "start": None if start is None else start.name,
        }
        path = self.folder / RUN
        if not path.is_file():
            if self.worker.leads:
                write_json(path, own)
            return
        before = json.loads(path.read_text())
        # These settings do not affect the result and may change.
        free = {"checkpoint_every", "samples_every"}
        different = [k for k in ("config", "photos", "start") if before.get(k) != own[k]]
        different += [
            f"setting {k} ({before['settings'].get(k)}, now {v})"
            for k, v in own["settings"].items()
            if k not in free and before["settings"].get(k) != v
        ]
        if different:
            raise UserError(
                f"{self.folder} contains another run, which differs in {', '.join(different)}; "
                "continue it with its own inputs, or choose another folder"
            )


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
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    args = parser.parse_args(argv)
    try:
        settings = make_pretrain_settings(**_assignments(args.set))
        config = load_config(args.config)
        photos = read_photo_set(args.images, config.image_size, _say)
        device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        run = BaseTraining(
            args.out,
            photos,
            config,
            settings,
            start=args.start,
            worker=WorkerContext(device=device),
            minutes=args.minutes,
            on_event=lambda event: _print_event(event, args.out),
        )
        finished = run.run()
    except UserError as e:
        _say(f"error: {e}")
        return 2
    if not finished:
        _say(f"stopped after {args.minutes:g} minute(s); the same command continues")
        return 1
    _say(f"finished: {args.out / WEIGHTS}")
    return 0


def _print_event(event: dict[str, Any], folder: Path) -> None:
    if "samples" in event:
        save_image_grid(
            folder / "samples" / f"{event['iteration']:07}.png", event["samples"], columns=4
        )
    elif event["iteration"] % 100 == 0 or event["iteration"] == event["of"]:
        _say(
            f"{event['stage']} {event['iteration']}/{event['of']}  loss {event['loss']:.4f}  "
            f"{event['seconds']:.2f} s per iteration"
        )


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


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""The worker of a training slot: trains one style after another.

The worker writes a checkpoint every ``checkpoint_every`` iterations or ``checkpoint_seconds``, from
which another worker resumes the style after a crash, and the style's bundle at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from factory.core import claims
from factory.core.failures import MEMORY, failure_kind
from factory.core.uris import base_name
from factory.registry.versions import TRAINING_FILE
from osasis.arithmetic import resolve
from osasis.bundles.base import Base, load_base
from osasis.bundles.style import Style, save_style
from osasis.checkpoints import CheckpointWriter, load_checkpoint
from osasis.contents import ContentBank, ContentSource, SampledContents
from osasis.counterpart import photo_counterpart
from osasis.early_stopping import EarlyStopping
from osasis.encode import EncodePlan, Encodings, encode
from osasis.images.decoding import load_image, png_bytes
from osasis.images.geometry import fit_square
from osasis.images.tensors import image_to_tensor, tensor_to_image
from osasis.metrics import style_metrics
from osasis.mix import Mix
from osasis.preview_encodings import preview_plan, shipped_previews
from osasis.recompute import recompute_activations
from osasis.settings import TrainSettings
from osasis.storage import save_tensors, write_atomic, write_json
from osasis.stylize import decode
from osasis.train import StyleTrainer

CHECKPOINT = "checkpoint.safetensors"
COUNTERPART = "counterpart.safetensors"
PREVIEWS = "previews"
RESULT = "result.json"
# Marks a style that ran out of memory.
RECOMPUTE = "recompute"

# Called after each iteration with (iteration, iterations, losses by name).
OnIteration = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class StyleTask:
    """One style to train.

    folder: receives checkpoints, previews and the bundle. source: the image's location in the
    catalog, for messages. claim: claim file; while it names ``job``, that job may write to folder.
    """

    id: str
    image: Path
    counterpart: Path | None
    fingerprint: str
    settings: TrainSettings
    folder: Path
    bank: Path | None = None
    tags: tuple[str, ...] = ()
    licence: str = ""
    source: str = ""
    claim: Path | None = None
    job: str = ""


@dataclass
class StyleWorker:
    """Data that a slot loads once: base, preview photos, and content banks by path.

    folder: the base's folder. encodings: of the preview photos, by plan.
    """

    base: Base
    preview_photos: torch.Tensor
    device: torch.device
    folder: Path
    banks: dict[Path, ContentBank] = field(default_factory=dict)
    encodings: dict[EncodePlan, Encodings] = field(default_factory=dict)

    @classmethod
    def open(cls, base: Path, previews: Path, device: str) -> StyleWorker:
        loaded = load_base(base, device)
        photos = load_file(previews)["photos"].to(loaded.device)
        return cls(loaded, photos, loaded.device, base)

    def bank(self, path: Path | None) -> ContentBank | None:
        """The content bank at a path, cached."""
        if path is None:
            return None
        if path not in self.banks:
            self.banks[path] = ContentBank.load(path, self.device)
        return self.banks[path]

    def train(self, task: StyleTask, on_iteration: OnIteration) -> None:
        """Train one style, or resume it from its checkpoint, and write its bundle.

        Raises ImageError for a bad image, DivergedError if training diverges, SupersededError if
        another job has taken over the style, and MemoryError, after which further calls train with
        the setting ``recompute``.
        """
        if is_finished(task.folder):
            return
        marker = task.folder / RECOMPUTE
        retried = marker.is_file()
        try:
            self._train(task, on_iteration, retried)
            return
        except Exception as e:
            if failure_kind(e) != MEMORY:
                raise
            reason = str(e).partition(". ")[0]
        # Raised outside the handler: ``e`` would refer to the tensors of the training.
        if not (retried or task.settings.recompute):
            write_atomic(marker, b"")
            reason += "; a retry computes activations again in the backward pass"
        raise MemoryError(reason)

    def _train(self, task: StyleTask, on_iteration: OnIteration, recompute: bool) -> None:
        """recompute: although the settings do not ask for it, as the style ran out of memory."""
        folder, settings = task.folder, task.settings
        started = time.perf_counter()
        image = self._load_image(task.image, task.source)
        bank = self.bank(task.bank)
        counterpart = self._counterpart(task, image, bank)
        state = read_state(folder)
        # A resumed training keeps its arithmetic, even if this machine would choose another.
        saved_arithmetic = state[1].get("arithmetic") if state else None
        arithmetic = saved_arithmetic or resolve(settings.precision, self.device)
        contents: ContentSource = (
            bank
            if settings.contents == "bank" and bank is not None
            else SampledContents(self.base, settings, arithmetic)
        )
        trainer = StyleTrainer(self.base, image, counterpart, contents, settings, arithmetic)
        if recompute:
            recompute_activations(trainer.unet, trainer.spn)
        stopping = EarlyStopping(settings)
        seconds_before = restore(trainer, stopping, state)
        every, least = settings.checkpoint_every, settings.checkpoint_seconds
        with CheckpointWriter(folder / CHECKPOINT, every, least) as checkpoints:
            while trainer.iteration < settings.iterations and not stopping.should_stop:
                trainer.step()
                on_iteration(trainer.iteration, settings.iterations, trainer.history[-1])
                if stopping.is_due(trainer.iteration):
                    metrics = None
                    if settings.watch != "total":
                        _, metrics = self._measure(trainer, trainer.style(task.id))
                    stopping.evaluate(trainer, metrics)
                if checkpoints.is_due(trainer.iteration):
                    check_claim(task)
                    seconds = seconds_before + time.perf_counter() - started
                    checkpoints.write(*training_state(trainer, stopping, seconds))
        iteration_kept = stopping.restore_best(trainer)
        check_claim(task)
        seconds = seconds_before + time.perf_counter() - started
        self._finish(task, trainer, iteration_kept, seconds)

    def _load_image(self, path: Path, name: str) -> torch.Tensor:
        """(1, 3, H, W) in [-1, 1] on the device. name: replaces the path in an ImageError."""
        size = self.base.config.image_size
        image = load_image(path, name=name or str(path), target=size)
        return image_to_tensor(fit_square(image, size))[None].to(self.device)

    def _counterpart(
        self, task: StyleTask, image: torch.Tensor, bank: ContentBank | None
    ) -> torch.Tensor:
        """The counterpart (1, 3, H, W): given, or computed and stored for a resumed training."""
        if task.counterpart is not None:
            name = f"counterpart of {task.source or task.image}"
            return self._load_image(task.counterpart, name)
        path = task.folder / COUNTERPART
        if path.is_file():
            return load_file(path)["counterpart"].to(self.device)
        counterpart = photo_counterpart(self.base, image, task.settings, bank)
        save_tensors(path, {"counterpart": counterpart})
        return counterpart

    def _finish(
        self, task: StyleTask, trainer: StyleTrainer, iteration_kept: int, seconds: float
    ) -> None:
        """Write the previews, the result and the style's bundle."""
        style = trainer.style(task.id)
        style.info |= {
            "base": self.base.fingerprint,
            "base_name": self.base.name,
            "fingerprint": task.fingerprint,
            "source_image": base_name(task.source or str(task.image)),
            "tags": list(task.tags),
            "licence": task.licence,
            "train_seconds": round(seconds, 2),
        }
        folder, settings = task.folder, task.settings
        if iteration_kept != trainer.iteration or trainer.iteration != settings.iterations:
            style.info |= {
                "iterations_trained": trainer.iteration,
                "iteration_kept": iteration_kept,
            }
        if settings.compact_rank is not None:
            style = style.compact(rank=settings.compact_rank)
        elif settings.compact_energy is not None:
            style = style.compact(energy=settings.compact_energy)
        images, metrics = self._measure(trainer, style)
        for i, image in enumerate(images):
            write_atomic(folder / PREVIEWS / f"{i:02d}.png", png_bytes(tensor_to_image(image)))
        result = {"metrics": metrics, "history": trainer.history, "seconds": seconds}
        write_json(folder / RESULT, result)
        # The bundle has a copy, so that a report needs no registry query per style.
        write_json(folder / "style" / TRAINING_FILE, result)
        save_style(folder / "style", style, trainer.style_image[0], trainer.counterpart[0])

    def _measure(
        self, trainer: StyleTrainer, style: Style
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The preview photos in a style, (N, 3, H, W) in [-1, 1], and the style's metrics."""
        encodings = self._encodings(preview_plan(trainer.settings))
        images = decode(self.base, encodings, Mix.of(style.id), {style.id: style})
        return images, style_metrics(
            self.base, self.preview_photos, images, trainer.style_image, trainer.counterpart
        )

    def _encodings(self, plan: EncodePlan) -> Encodings:
        """Encodings of the preview photos, read from the base's folder or computed once."""
        if plan not in self.encodings:
            shipped = shipped_previews(self.folder, self.base, self.preview_photos, plan)
            self.encodings[plan] = shipped or encode(self.base, self.preview_photos, plan)
        return self.encodings[plan]


def is_finished(folder: Path) -> bool:
    """Whether a style's folder holds a complete bundle; ``style.json`` is written last."""
    return (folder / RESULT).is_file() and (folder / "style" / "style.json").is_file()


def check_claim(task: StyleTask) -> None:
    """Raises SupersededError if another job has taken over the style."""
    if task.claim is None:
        return
    claims.check_claim(task.claim, task.job)


def training_state(
    trainer: StyleTrainer, stopping: EarlyStopping, seconds: float
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Copies of a style's training state, as tensors and as JSON. seconds: of training so far."""
    info = {**trainer.state_info(), "watch": stopping.state_info(), "seconds": seconds}
    return {**trainer.state_tensors(), **stopping.state_tensors()}, info


def read_state(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """What ``training_state`` returned at the last checkpoint; None if there is no checkpoint."""
    path = folder / CHECKPOINT
    return load_checkpoint(path) if path.is_file() else None


def restore(
    trainer: StyleTrainer,
    stopping: EarlyStopping,
    state: tuple[dict[str, torch.Tensor], dict[str, Any]] | None,
) -> float:
    """Load a training state; returns the seconds spent before it was written."""
    if state is None:
        return 0.0
    tensors, info = state
    trainer.load_state(tensors, info)
    stopping.load_state(tensors, info["watch"])
    return float(info["seconds"])

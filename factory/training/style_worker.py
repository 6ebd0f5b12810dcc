"""The worker of a training slot: trains one style after another.

A worker writes a checkpoint every few iterations and the style's bundle at the end, so that
another worker continues a style whose worker was killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from factory.core.claims import read_claim
from factory.core.uris import base_name
from factory.registry.versions import TRAINING_FILE
from osasis.arithmetic import resolve
from osasis.bundles.base import Base, load_base
from osasis.bundles.style import Style, save_style
from osasis.checkpoints import load_checkpoint, save_checkpoint
from osasis.contents import ContentBank, ContentSource, SampledContents
from osasis.counterpart import photo_counterpart
from osasis.early_stopping import EarlyStopping
from osasis.images.decoding import load_image, png_bytes
from osasis.images.geometry import fit_square
from osasis.images.tensors import image_to_tensor, tensor_to_image
from osasis.metrics import style_metrics
from osasis.mix import Mix
from osasis.preview_encodings import preview_plan, shipped_previews
from osasis.settings import TrainSettings
from osasis.storage import save_tensors, write_atomic, write_json
from osasis.stylize import EncodePlan, Encodings, decode, encode
from osasis.train import StyleTrainer

CHECKPOINT = "checkpoint.safetensors"
COUNTERPART = "counterpart.safetensors"
PREVIEWS = "previews"
RESULT = "result.json"

# Called after each iteration with (iteration, iterations, losses by name).
OnIteration = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class StyleTask:
    """One style to train, as a slot needs it. Paths are strings, so that JSON can carry it.

    source: where the image came from, for messages. claim: a file that names ``job`` as long as
    the job may write.
    """

    id: str
    image: str
    counterpart: str | None
    fingerprint: str
    settings: dict[str, Any]
    folder: str
    bank: str | None = None
    tags: tuple[str, ...] = ()
    licence: str = ""
    source: str = ""
    claim: str | None = None
    job: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class SupersededError(Exception):
    """Another job has taken this style over."""


@dataclass
class StyleWorker:
    """What a slot loads once: the base, the photos for previews, content banks by path.

    encodings: of the preview photos, which do not depend on the style. folder: the base's, which
    may bring them along.
    """

    base: Base
    preview_photos: torch.Tensor
    device: torch.device
    folder: Path
    banks: dict[str, ContentBank] = field(default_factory=dict)
    encodings: dict[EncodePlan, Encodings] = field(default_factory=dict)

    @classmethod
    def open(cls, base: Path, previews: Path, device: str) -> StyleWorker:
        photos = load_file(previews)["photos"].to(device)
        return cls(load_base(base, device), photos, torch.device(device), base)

    def bank(self, path: str | None) -> ContentBank | None:
        """The content bank at a path; read once."""
        if path is None:
            return None
        if path not in self.banks:
            self.banks[path] = ContentBank.load(Path(path), self.device)
        return self.banks[path]

    def train(self, task: StyleTask, on_iteration: OnIteration) -> None:
        """Train one style, or continue it from its checkpoint, and write its bundle.

        Raises UserError where the image is bad or training diverges.
        """
        folder, settings = Path(task.folder), TrainSettings.parse(task.settings)
        if is_finished(folder):
            return
        started = time.perf_counter()
        image = self._picture(task.image, task.source)
        bank = self.bank(task.bank)
        counterpart = self._counterpart(task, image, settings, bank)
        kept_state = read_state(folder)
        # A resumed training goes on in the arithmetic that it began in, whatever machine this is.
        begun_in = kept_state[1].get("arithmetic") if kept_state else None
        arithmetic = begun_in or resolve(settings.precision, self.device)
        contents: ContentSource = (
            bank
            if settings.contents == "bank" and bank is not None
            else SampledContents(self.base, settings, arithmetic)
        )
        trainer = StyleTrainer(self.base, image, counterpart, contents, settings, arithmetic)
        stopping = EarlyStopping(settings)
        before = restore(trainer, stopping, kept_state)
        while trainer.iteration < settings.iterations and not stopping.should_stop:
            trainer.step()
            on_iteration(trainer.iteration, settings.iterations, trainer.history[-1])
            if stopping.is_due(trainer.iteration):
                stopping.evaluate(
                    trainer, self._watched(trainer) if settings.watch != "total" else None
                )
            if trainer.iteration % settings.checkpoint_every == 0:
                seconds = before + time.perf_counter() - started
                check_claim(task)
                checkpoint(trainer, stopping, folder, seconds)
        kept = stopping.restore_best(trainer)
        check_claim(task)
        self._finish(task, trainer, kept, before + time.perf_counter() - started)

    def _picture(self, path: str, source: str) -> torch.Tensor:
        """An image as (1, 3, H, W) on the device. Raises ImageError naming where it came from."""
        size = self.base.config.image_size
        image = load_image(path, name=source or path, target=size)
        return image_to_tensor(fit_square(image, size))[None].to(self.device)

    def _watched(self, trainer: StyleTrainer) -> dict[str, float]:
        """The metrics of what has been trained so far."""
        return self._measure(trainer, trainer.style("watched"))[1]

    def _counterpart(
        self,
        task: StyleTask,
        image: torch.Tensor,
        settings: TrainSettings,
        bank: ContentBank | None,
    ) -> torch.Tensor:
        """The given counterpart, or one that is made once and kept for a resumed run."""
        if task.counterpart is not None:
            return self._picture(task.counterpart, f"counterpart of {task.source or task.image}")
        kept = Path(task.folder) / COUNTERPART
        if kept.is_file():
            return load_file(kept)["counterpart"].to(self.device)
        made = photo_counterpart(self.base, image, settings, bank)
        save_tensors(kept, {"counterpart": made})
        return made

    def _finish(self, task: StyleTask, trainer: StyleTrainer, kept: int, seconds: float) -> None:
        style = trainer.style(task.id)
        style.info |= {
            "base": self.base.fingerprint,
            "base_name": self.base.name,
            "fingerprint": task.fingerprint,
            "source_image": base_name(task.source or task.image),
            "tags": list(task.tags),
            "licence": task.licence,
            "train_seconds": round(seconds, 2),
        }
        folder, settings = Path(task.folder), trainer.settings
        if kept != trainer.iteration or trainer.iteration != settings.iterations:
            style.info |= {"iterations_trained": trainer.iteration, "iteration_kept": kept}
        if settings.compact_rank is not None:
            style = style.compact(rank=settings.compact_rank)
        elif settings.compact_energy is not None:
            style = style.compact(energy=settings.compact_energy)
        images, metrics = self._measure(trainer, style)
        for i, picture in enumerate(images):
            write_atomic(folder / PREVIEWS / f"{i:02d}.png", png_bytes(tensor_to_image(picture)))
        result = {"metrics": metrics, "history": trainer.history, "seconds": seconds}
        write_json(folder / RESULT, result)
        # The same goes with the bundle: what a report shows needs no query a style.
        write_json(folder / "style" / TRAINING_FILE, result)
        save_style(folder / "style", style, trainer.style_image[0], trainer.counterpart[0])

    def _measure(
        self, trainer: StyleTrainer, style: Style
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The preview photos in a style (N, 3, H, W), and its metrics on them."""
        encodings = self._encodings(preview_plan(trainer.settings))
        images = decode(self.base, encodings, Mix.of(style.id), {style.id: style})
        return images, style_metrics(
            self.base, self.preview_photos, images, trainer.style_image, trainer.counterpart
        )

    def _encodings(self, plan: EncodePlan) -> Encodings:
        """Encodings of the preview photos, read from the base's folder or computed once."""
        if plan not in self.encodings:
            made = shipped_previews(self.folder, self.base, self.preview_photos, plan)
            self.encodings[plan] = made or encode(self.base, self.preview_photos, plan)
        return self.encodings[plan]


def is_finished(folder: Path) -> bool:
    """Whether a style's folder holds its whole bundle: style.json is the last that is written."""
    return (folder / RESULT).is_file() and (folder / "style" / "style.json").is_file()


def check_claim(task: StyleTask) -> None:
    """Raises SupersededError where another job has taken the style over."""
    if task.claim is None:
        return
    holder = read_claim(Path(task.claim))
    if holder is not None and holder.job != task.job:
        raise SupersededError(f"job {holder.job} has taken {task.id} over")


def checkpoint(
    trainer: StyleTrainer, stopping: EarlyStopping, folder: Path, seconds: float
) -> None:
    """Write a style's training state."""
    info = {**trainer.state_info(), "watch": stopping.state_info(), "seconds": seconds}
    tensors = {**trainer.state_tensors(), **stopping.state_tensors()}
    save_checkpoint(folder / CHECKPOINT, tensors, info)


def read_state(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """A style's training state as ``checkpoint`` wrote it; None where there is none."""
    path = folder / CHECKPOINT
    return load_checkpoint(path) if path.is_file() else None


def restore(
    trainer: StyleTrainer,
    stopping: EarlyStopping,
    state: tuple[dict[str, torch.Tensor], dict[str, Any]] | None,
) -> float:
    """Continue from a training state; returns the seconds spent before it was written."""
    if state is None:
        return 0.0
    tensors, info = state
    trainer.load_state(tensors, info)
    stopping.load_state(tensors, info["watch"])
    return float(info["seconds"])

"""What a training slot does: train styles from the queue until none waits.

Every step leaves its result on disk, so that a killed slot continues: the style's checkpoint
every few iterations, its bundle at the end.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from osasis.base import Base, load_base
from osasis.contents import ContentBank, ContentSource, SampledContents
from osasis.counterpart import photo_counterpart
from osasis.errors import UserError
from osasis.images import load_square, png_bytes, tensor_to_image
from osasis.metrics import style_metrics
from osasis.mix import Mix
from osasis.settings import TrainSettings
from osasis.storage import save_tensors, write_atomic, write_json
from osasis.style import save_style
from osasis.stylize import decode, encode
from osasis.train import StyleTrainer

CHECKPOINT = "checkpoint.safetensors"
COUNTERPART = "counterpart.safetensors"
PREVIEWS = "previews"
ANSI = re.compile(r"\x1b\[[0-9;]*m")

# Called after each iteration with (iteration, iterations, total loss).
OnIteration = Callable[[int, int, float], None]


@dataclass(frozen=True)
class StyleTask:
    """One style to train, as a slot needs it. Paths are strings, so that JSON can carry it."""

    id: str
    image: str
    counterpart: str | None
    fingerprint: str
    settings: dict[str, Any]
    folder: str
    bank: str | None = None
    tags: tuple[str, ...] = ()
    licence: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Workbench:
    """What a slot loads once: the base, the photos for previews, content banks by path."""

    base: Base
    preview_photos: torch.Tensor
    device: torch.device
    banks: dict[str, ContentBank] = field(default_factory=dict)

    @classmethod
    def open(cls, base: Path, previews: Path, device: str) -> Workbench:
        photos = load_file(previews)["photos"].to(device)
        return cls(load_base(base, device), photos, torch.device(device))

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
        folder, settings = Path(task.folder), TrainSettings(**task.settings)
        started = time.perf_counter()
        size = self.base.config.image_size
        image = load_square(task.image, size)[None].to(self.device)
        bank = self.bank(task.bank)
        counterpart = self._counterpart(task, image, settings, bank)
        contents: ContentSource = (
            bank
            if settings.contents == "bank" and bank is not None
            else SampledContents(self.base, settings)
        )
        trainer = StyleTrainer(self.base, image, counterpart, contents, settings)
        before = restore(trainer, folder)
        while trainer.iteration < settings.iterations:
            trainer.step()
            on_iteration(trainer.iteration, settings.iterations, trainer.history[-1]["total"])
            if trainer.iteration % settings.checkpoint_every == 0:
                seconds = before + time.perf_counter() - started
                checkpoint(trainer, folder, seconds)
        self._finish(task, trainer, before + time.perf_counter() - started)

    def _counterpart(
        self,
        task: StyleTask,
        image: torch.Tensor,
        settings: TrainSettings,
        bank: ContentBank | None,
    ) -> torch.Tensor:
        """The given counterpart, or one that is made once and kept for a resumed run."""
        if task.counterpart is not None:
            size = self.base.config.image_size
            return load_square(task.counterpart, size)[None].to(self.device)
        kept = Path(task.folder) / COUNTERPART
        if kept.is_file():
            return load_file(kept)["counterpart"].to(self.device)
        photos = bank.contents if bank is not None else None
        made = photo_counterpart(self.base, image, settings, photos)
        save_tensors(kept, {"counterpart": made})
        return made

    def _finish(self, task: StyleTask, trainer: StyleTrainer, seconds: float) -> None:
        style = trainer.style(task.id)
        style.info |= {
            "base": self.base.fingerprint,
            "base_name": self.base.name,
            "fingerprint": task.fingerprint,
            "source_image": Path(task.image).name,
            "tags": list(task.tags),
            "licence": task.licence,
            "train_seconds": round(seconds, 2),
        }
        folder = Path(task.folder)
        settings = trainer.settings
        if settings.compact_rank is not None:
            style = style.compact(rank=settings.compact_rank)
        elif settings.compact_energy is not None:
            style = style.compact(energy=settings.compact_energy)
        encodings = encode(
            self.base,
            self.preview_photos,
            t0=settings.t0,
            steps=settings.stylize_encode_steps,
            precision=settings.precision,
        )
        images = decode(
            self.base, encodings, Mix.of(task.id), {task.id: style}, precision=settings.precision
        )
        for i, picture in enumerate(images):
            write_atomic(folder / PREVIEWS / f"{i:02d}.png", png_bytes(tensor_to_image(picture)))
        metrics = style_metrics(
            self.base, self.preview_photos, images, trainer.style_image, trainer.counterpart
        )
        write_json(
            folder / "result.json",
            {"metrics": metrics, "history": trainer.history, "seconds": seconds},
        )
        save_style(folder / "style", style, trainer.style_image[0], trainer.counterpart[0])


def checkpoint(trainer: StyleTrainer, folder: Path, seconds: float) -> None:
    """Write a style's training state; the JSON rides in the tensors' file, so that both or
    neither are there."""
    info = {**trainer.state_info(), "seconds": seconds}
    save_tensors(folder / CHECKPOINT, trainer.state_tensors(), {"info": json.dumps(info)})


def restore(trainer: StyleTrainer, folder: Path) -> float:
    """Continue from a style's checkpoint where there is one; returns the seconds spent before."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return 0.0
    from safetensors import safe_open

    with safe_open(path, framework="pt") as f:
        info = json.loads(f.metadata()["info"])
    trainer.load_state(load_file(path), info)
    return float(info["seconds"])


def describe_failure(error: BaseException) -> str:
    """One line for the report: a user's mistake as it stands, anything else with its type."""
    # Ray wraps what a task raised, with a traceback as its text.
    while isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    lines = [line.strip() for line in ANSI.sub("", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or [''])[-1][:300]}"

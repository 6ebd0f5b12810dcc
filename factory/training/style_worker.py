"""The worker of a training slot: trains one style after another.

The worker writes a checkpoint every ``checkpoint_every`` iterations or ``checkpoint_seconds``, from
which another worker resumes the style after a crash, and the style's bundle at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from factory.core import claims
from factory.core.failures import MEMORY, failure_kind
from factory.core.uris import base_name
from factory.methods import LoadedBase, load_base
from factory.methods.interface import Training, TrainingInputs, TrainingState
from factory.registry.versions import TRAINING_FILE
from osasis.bundles.files import STYLE_JSON
from osasis.checkpoints import CheckpointWriter, load_checkpoint
from osasis.images.decoding import png_bytes
from osasis.images.tensors import tensor_to_image
from osasis.storage import write_atomic, write_json

CHECKPOINT = "checkpoint.safetensors"
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
    catalog, for messages. settings: of the base's method. claim: claim file; while it names
    ``job``, that job may write to folder.
    """

    id: str
    image: Path
    counterpart: Path | None
    fingerprint: str
    settings: Any
    folder: Path
    bank: Path | None = None
    tags: tuple[str, ...] = ()
    licence: str = ""
    source: str = ""
    claim: Path | None = None
    job: str = ""


@dataclass(frozen=True)
class StyleWorker:
    """What a slot loads once: the base, and the preview photos (N, 3, H, W) in [-1, 1]."""

    base: LoadedBase
    preview_photos: Tensor

    @classmethod
    def open(cls, base: Path, previews: Path, device: str) -> StyleWorker:
        loaded = load_base(base, device)
        return cls(loaded, load_file(previews)["photos"].to(loaded.device))

    def train(self, task: StyleTask, on_iteration: OnIteration) -> None:
        """Train one style, or resume it from its checkpoint, and write its bundle.

        Raises ImageError for a bad image, DivergedError if training diverges, SupersededError if
        another job has taken over the style, and MemoryError, after which further calls compute
        activations again in the backward pass if the method can.
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
        if not retried and self.base.method.can_recompute(task.settings):
            write_atomic(marker, b"")
            reason += "; a retry computes activations again in the backward pass"
        raise MemoryError(reason)

    def _train(self, task: StyleTask, on_iteration: OnIteration, recompute: bool) -> None:
        """recompute: although the settings do not ask for it, as the style ran out of memory."""
        started = time.perf_counter()
        inputs = TrainingInputs(
            image=task.image,
            name=task.source or str(task.image),
            counterpart=task.counterpart,
            settings=task.settings,
            folder=task.folder,
            bank=task.bank,
            previews=self.preview_photos,
            recompute=recompute,
        )
        state = read_state(task.folder)
        seconds_before = float(state[1]["seconds"]) if state else 0.0
        training = self.base.train(inputs, state)
        every, least = task.settings.checkpoint_every, task.settings.checkpoint_seconds
        with CheckpointWriter(task.folder / CHECKPOINT, every, least) as checkpoints:
            while not training.done:
                training.step()
                on_iteration(training.iteration, training.iterations, training.history[-1])
                if checkpoints.is_due(training.iteration):
                    check_claim(task)
                    tensors, info = training.state()
                    seconds = seconds_before + time.perf_counter() - started
                    checkpoints.write(tensors, {**info, "seconds": seconds})
        check_claim(task)
        self._finish(task, training, seconds_before + time.perf_counter() - started)

    def _finish(self, task: StyleTask, training: Training, seconds: float) -> None:
        """Write the previews, the result and the style's bundle."""
        info = {
            "base": self.base.fingerprint,
            "base_name": self.base.name,
            "fingerprint": task.fingerprint,
            "source_image": base_name(task.source or str(task.image)),
            "tags": list(task.tags),
            "licence": task.licence,
            "train_seconds": round(seconds, 2),
        }
        trained, folder = training.finish(task.id, info), task.folder
        for i, image in enumerate(trained.images):
            write_atomic(folder / PREVIEWS / f"{i:02d}.png", png_bytes(tensor_to_image(image)))
        result = {"metrics": trained.metrics, "history": training.history, "seconds": seconds}
        write_json(folder / RESULT, result)
        # The bundle has a copy, so that a report needs no registry query per style.
        write_json(folder / "style" / TRAINING_FILE, result)
        trained.save(folder / "style")


def is_finished(folder: Path) -> bool:
    """Whether a style's folder holds a complete bundle; ``style.json`` is written last."""
    return (folder / RESULT).is_file() and (folder / "style" / STYLE_JSON).is_file()


def check_claim(task: StyleTask) -> None:
    """Raises SupersededError if another job has taken over the style."""
    if task.claim is None:
        return
    claims.check_claim(task.claim, task.job)


def read_state(folder: Path) -> TrainingState | None:
    """The state in a style's checkpoint; None if there is none."""
    path = folder / CHECKPOINT
    return load_checkpoint(path) if path.is_file() else None

"""The worker of a training slot: trains one style after another.

The worker writes a checkpoint every ``checkpoint_every`` iterations or ``checkpoint_seconds``, from
which another worker resumes the style after a crash, and the style's bundle at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load
from torch import Tensor

from factory.core import claims
from factory.core.failures import MEMORY, StoppedError, failure_kind
from factory.core.home import local_base
from factory.core.stores import Location, open_store, read_shared
from factory.core.uris import base_name
from factory.core.work_folder import WorkFolder
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
# Copies of a style's images, where the originals are in an object store.
INPUTS = "inputs"
# Written last.
FINISHED = f"style/{STYLE_JSON}"
# Marks a style that ran out of memory.
RECOMPUTE = "recompute"
# The id of the style's MLflow run, which the driver writes.
RUN_FILE = "mlflow-run.json"

# Called after each iteration with (iteration, iterations, losses by name). True: stop now.
OnIteration = Callable[[int, int, dict[str, float]], bool]


@dataclass(frozen=True)
class StyleTask:
    """One style to train.

    image, counterpart, folder, bank and claim are paths or URIs on storage that all nodes share.
    folder: receives checkpoints, previews and the bundle. source: the image's location in the
    catalog, for messages. settings: of the base's method. claim: claim file; while it names
    ``job``, that job may write to folder.
    """

    id: str
    image: Location
    counterpart: Location | None
    fingerprint: str
    settings: Any
    folder: Location
    bank: Location | None = None
    tags: tuple[str, ...] = ()
    licence: str = ""
    source: str = ""
    claim: str | None = None
    job: str = ""


@dataclass(frozen=True)
class StyleWorker:
    """What a slot loads once: the base, and the preview photos (N, 3, H, W) in [-1, 1]."""

    base: LoadedBase
    preview_photos: Tensor

    @classmethod
    def open(cls, base: Location, previews: Location, device: str) -> StyleWorker:
        """base, previews: paths or URIs, see ``TrainingJob``."""
        loaded = load_base(local_base(base), device)
        return cls(loaded, load(read_shared(previews))["photos"].to(loaded.device))

    def train(self, task: StyleTask, on_iteration: OnIteration) -> None:
        """Train one style, or resume it from its checkpoint, and write its bundle.

        Raises ImageError for a bad image, DivergedError if training diverges, SupersededError if
        another job has taken over the style, StoppedError after a checkpoint where ``on_iteration``
        asks for it, and MemoryError, after which further calls compute
        activations again in the backward pass if the method can.
        """
        if is_finished(task.folder):
            return
        work = WorkFolder.at(task.folder)
        try:
            work.fetch()
            self._train_or_retry(task, work, on_iteration)
        finally:
            work.drop_local()

    def _train_or_retry(self, task: StyleTask, work: WorkFolder, on_iteration: OnIteration) -> None:
        """Train a style, with ``RECOMPUTE`` if it ran out of memory before."""
        marker = work.path / RECOMPUTE
        retried = marker.is_file()
        try:
            self._train(task, work, on_iteration, retried)
            return
        except Exception as e:
            if failure_kind(e) != MEMORY:
                raise
            reason = str(e).partition(". ")[0]
        # Raised outside the handler: ``e`` would refer to the tensors of the training.
        if not retried and self.base.method.can_recompute(task.settings):
            write_atomic(marker, b"")
            work.publish(RECOMPUTE)
            reason += "; a retry computes activations again in the backward pass"
        raise MemoryError(reason)

    def _train(
        self, task: StyleTask, work: WorkFolder, on_iteration: OnIteration, recompute: bool
    ) -> None:
        """recompute: although the settings do not ask for it, as the style ran out of memory."""
        started = time.perf_counter()
        inputs = TrainingInputs(
            image=local_file(task.image, work),
            name=task.source or str(task.image),
            counterpart=local_file(task.counterpart, work) if task.counterpart else None,
            settings=task.settings,
            folder=work.path,
            bank=task.bank,
            previews=self.preview_photos,
            recompute=recompute,
        )
        state = read_state(work.path)
        seconds_before = float(state[1]["seconds"]) if state else 0.0
        training = self.base.train(inputs, state)
        every, least = task.settings.checkpoint_every, task.settings.checkpoint_seconds
        publish = partial(work.publish, CHECKPOINT)
        with CheckpointWriter(work.path / CHECKPOINT, every, least, publish) as checkpoints:
            while not training.done:
                training.step()
                stop = on_iteration(training.iteration, training.iterations, training.history[-1])
                if stop or checkpoints.is_due(training.iteration):
                    check_claim(task)
                    tensors, info = training.state()
                    seconds = seconds_before + time.perf_counter() - started
                    checkpoints.write(tensors, {**info, "seconds": seconds})
                if stop:
                    checkpoints.wait()
                    raise StoppedError(f"stopped after iteration {training.iteration}")
        check_claim(task)
        self._finish(task, work.path, training, seconds_before + time.perf_counter() - started)
        work.publish_all(FINISHED, skip=(CHECKPOINT, INPUTS, RUN_FILE))

    def _finish(self, task: StyleTask, folder: Path, training: Training, seconds: float) -> None:
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
        trained = training.finish(task.id, info)
        for i, image in enumerate(trained.images):
            write_atomic(folder / PREVIEWS / f"{i:02d}.png", png_bytes(tensor_to_image(image)))
        result = {"metrics": trained.metrics, "history": training.history, "seconds": seconds}
        write_json(folder / RESULT, result)
        # The bundle has a copy, so that a report needs no registry query per style.
        write_json(folder / "style" / TRAINING_FILE, result)
        trained.save(folder / "style")


def is_finished(folder: Location) -> bool:
    """Whether a style's folder holds a complete bundle; ``style.json`` is written last."""
    return {RESULT, FINISHED} <= set(open_store(folder).list())


def local_file(location: Location, work: WorkFolder) -> Path:
    """A file by path or URI as a file of this machine: itself, or a copy in the work folder."""
    if not work.is_remote:
        return Path(location)
    path = work.path / INPUTS / base_name(str(location))
    write_atomic(path, read_shared(location))
    return path


def check_claim(task: StyleTask) -> None:
    """Raises SupersededError if another job has taken over the style."""
    if task.claim is None:
        return
    claims.check_claim(task.claim, task.job)


def read_state(folder: Path) -> TrainingState | None:
    """The state in a style's checkpoint; None if there is none."""
    path = folder / CHECKPOINT
    return load_checkpoint(path) if path.is_file() else None

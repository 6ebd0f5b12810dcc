"""What a training run has to do and how long it takes, before it runs.

The time of a style is that of registered styles with its settings on the same base, or else comes
from a few iterations that a worker of the cluster trains in a temporary folder.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from factory.core.gpus import remote_task
from factory.core.home import Home, local_base
from factory.core.stores import read_shared
from factory.methods import LoadedBase, load_base
from factory.methods.interface import ContentPhotos, TrainingInputs
from factory.registry import StyleVersion
from factory.training.plan import PlannedStyle
from factory.training.slots import SlotPlan
from factory.training.staged_images import StagedImages
from osasis.bundles.files import STYLE_JSON, read_json
from osasis.errors import UserError
from osasis.storage import sha256_text, write_atomic

# Settings without an effect on the time of a training.
TIMELESS = ("seed", "prompt", "licence")
# Iterations that are measured after the first, which includes work of the start.
PROBE_ITERATIONS = 2


@dataclass(frozen=True)
class TrainEstimate:
    """What is left of a run. measured: "history", "probe", both, or "" where nothing is known:
    then seconds, gpu_hours and bytes are None. bytes: of the bundles to register."""

    styles: int
    registered: int
    to_train: int
    cannot_be_trained: int
    slots: int
    device: str
    seconds: float | None
    gpu_hours: float | None
    bytes: int | None
    measured: str
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimate_training(
    plan: Sequence[PlannedStyle],
    home: Home,
    base: LoadedBase,
    base_folder: Path,
    slots: SlotPlan,
    versions: Mapping[str, Sequence[StyleVersion]],
    images: StagedImages,
    previews: Tensor,
    photos: ContentPhotos | None,
) -> TrainEstimate:
    """The estimate of a plan. Ray runs.

    versions: registered ones by style. images, previews, photos: of the run.
    """
    waiting = [p for p in plan if p.needs_training]
    known = _trained(base, (v for found in versions.values() for v in found))
    kinds = Counter(_key(base, p.settings.to_dict()) for p in waiting)
    sources, note, total, size = set(), "", 0.0, 0.0
    for key in kinds:
        first = next(p for p in waiting if _key(base, p.settings.to_dict()) == key)
        if key in known:
            sources.add("history")
            seconds, bundle = (
                statistics.median(values) for values in zip(*known[key], strict=True)
            )
            total, size = total + seconds * kinds[key], size + bundle * kinds[key]
            continue
        ready, bank = base.ready_bank(first.settings, home, photos)
        if not ready:
            note = (
                "no style with these settings is registered, and their content bank is not made "
                "yet; train one style first"
            )
            break
        inputs = TrainingInputs(
            Path(), first.entry.image, None, first.settings, Path(), bank, previews.cpu()
        )
        image = images.share(first.entry.image)
        sources.add("probe")
        seconds, bundle = _probe(home.base_location(base_folder), image, inputs, slots)
        total, size = total + seconds * kinds[key], size + bundle * kinds[key]
    # A slot trains whole styles.
    rounds = -(-len(waiting) // slots.count) / max(1, len(waiting))
    return TrainEstimate(
        styles=len(plan),
        registered=sum(p.registered is not None for p in plan),
        to_train=len(waiting),
        cannot_be_trained=sum(p.failure is not None for p in plan),
        slots=slots.count,
        device=slots.device,
        seconds=None if note else round(total * rounds, 1),
        gpu_hours=None if note else round(total * slots.gpus / 3600, 3),
        bytes=None if note else round(size),
        measured=" and ".join(sorted(sources)) if not note else "",
        note=note,
    )


def _key(base: LoadedBase, settings: dict[str, Any]) -> str:
    """A hash of the settings that affect the time of a training."""
    relevant = base.method.relevant(settings)
    timed = {name: value for name, value in relevant.items() if name not in TIMELESS}
    return sha256_text(json.dumps(timed, sort_keys=True))


def _trained(
    base: LoadedBase, versions: Iterable[StyleVersion]
) -> dict[str, list[tuple[float, int]]]:
    """Seconds and bytes of the base's registered styles, by their settings."""
    found: dict[str, list[tuple[float, int]]] = {}
    for version in versions:
        if version.base != base.fingerprint or not version.in_home:
            continue
        try:
            folder = version.folder()
            info = read_json(folder / STYLE_JSON, "train the style again")
        except (OSError, UserError):  # a bundle that is gone tells nothing
            continue
        if "train_seconds" in info and "settings" in info:
            size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
            key = _key(base, info["settings"])
            found.setdefault(key, []).append((info["train_seconds"], size))
    return found


def _probe(base: str, image: str, inputs: TrainingInputs, slots: SlotPlan) -> tuple[float, int]:
    """Seconds and bytes of a style by a worker of the cluster."""
    import ray

    task = remote_task(measure, gpus=slots.gpus)
    found: tuple[float, int] = ray.get(task.remote(base, image, inputs, slots.device))
    return found


def measure(base: str, image: str, inputs: TrainingInputs, device: str) -> tuple[float, int]:
    """Seconds and bytes that a style takes, from its start, a few iterations and its end.

    base, image: paths or URIs, on storage that all nodes share; the image replaces that of inputs.
    """
    loaded = load_base(local_base(base), device)
    with tempfile.TemporaryDirectory() as folder:
        previews = inputs.previews.to(loaded.device)
        started = time.perf_counter()
        copy = Path(folder) / "image"
        write_atomic(copy, read_shared(image))
        inputs = replace(inputs, image=copy, folder=Path(folder), previews=previews)
        training = loaded.train(inputs, None)
        if not training.done:
            training.step()
        start, first = time.perf_counter() - started, training.iteration
        started = time.perf_counter()
        while not training.done and training.iteration < first + PROBE_ITERATIONS:
            training.step()
        count = training.iteration - first
        each = (time.perf_counter() - started) / count if count else 0.0
        started = time.perf_counter()
        training.finish("probe", {}).save(Path(folder) / "style")
        end = time.perf_counter() - started
        size = sum(p.stat().st_size for p in (Path(folder) / "style").rglob("*") if p.is_file())
        return start + (training.iterations - first) * each + end, size

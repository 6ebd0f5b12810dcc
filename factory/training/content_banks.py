"""Content banks: computed once on the cluster for every style of a base, kept by fingerprint.

A bank is a folder: ``shard-00000.safetensors`` and so on, and ``bank.json``, which comes last.
A base may bring banks along, in its folder ``banks``, by the same names.
Shards are computed by Ray tasks, each deterministic by itself: a build that was interrupted goes
on with the shards that are missing, and the number of tasks changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
import torch
from safetensors.torch import load_file

from factory.core.claims import Claims
from osasis.bundles.base import Base
from osasis.contents import BANK_JSON, BROUGHT, CHUNK, bank_photos
from osasis.settings import TrainSettings
from osasis.storage import save_tensors, sha256_text, write_json
from osasis.worker import prepare_worker

# The settings that a bank depends on, and those that matter where its photos are sampled.
FIELDS = ("encode_steps", "t0", "precision", "bank_size", "guide_input")
SAMPLED = ("decode_steps", "latent_steps", "seed")
PHOTOS = "photos.safetensors"
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Bank:
    """A content bank that is there. seconds: what building it took. draw_seconds: what one
    content costs where it is sampled anew, measured on the machine that built the bank. Both are
    None for a bank that came with its base."""

    folder: Path
    contents: int
    seconds: float | None
    draw_seconds: float | None

    def saves(self, settings: TrainSettings) -> float | None:
        """Seconds of training that the bank spares one style."""
        if self.draw_seconds is None:
            return None
        return self.draw_seconds * settings.batch_size * settings.iterations


@dataclass(frozen=True)
class Photos:
    """Photos that a run brings along as contents: (N, 3, H, W) uint8."""

    tensor: torch.Tensor

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.tensor.numpy().tobytes()).hexdigest()[:16]


def bank_path(
    folder: Path, base: Base, settings: TrainSettings, photos: Photos | None = None
) -> Path | None:
    """Where the bank of a base, settings and photos is kept.

    None where the settings sample their contents anew and no counterpart leans on photos.
    """
    if settings.contents != "bank" and (base.photos is None or base.prior is not None):
        return None
    key: dict[str, Any] = {name: getattr(settings, name) for name in FIELDS}
    if photos is not None:
        key["photos"] = photos.fingerprint
    elif base.photos is None:
        key |= {name: getattr(settings, name) for name in SAMPLED}
    name = sha256_text(json.dumps([base.fingerprint, key], sort_keys=True))[:16]
    return folder / name


def ensure_banks(
    folder: Path,
    base_folder: Path,
    base: Base,
    settings: Sequence[TrainSettings],
    report: Callable[[str], None],
    claims: Claims,
    photos: Photos | None = None,
) -> list[Bank | None]:
    """The bank of each of the settings; those that are missing are computed on the cluster.

    Of several jobs that need a bank one builds it, and the others wait for it.
    """
    banks: dict[Path, Bank] = {}
    out: list[Bank | None] = []
    for wanted in settings:
        path = bank_path(folder, base, wanted, photos)
        if path is not None and path not in banks:
            own = photos.tensor if photos is not None else bank_photos(base)
            banks[path] = _ensure(path, base_folder, wanted, own, report, claims)
        out.append(banks[path] if path is not None else None)
    return out


def read_bank(path: Path) -> Bank | None:
    """A bank that is complete, else None."""
    try:
        info = json.loads((path / BANK_JSON).read_text())
    except FileNotFoundError:
        return None
    return Bank(path, info["contents"], info.get("seconds"), info.get("draw_seconds"))


def _ensure(
    path: Path,
    base_folder: Path,
    settings: TrainSettings,
    photos: torch.Tensor | None,
    report: Callable[[str], None],
    claims: Claims,
) -> Bank:
    there = read_bank(path) or read_bank(base_folder / BROUGHT / path.name)
    if there is not None:
        return there
    name, told = f"bank-{path.name}", False
    while (bank := read_bank(path)) is None:
        holder = claims.acquire(name)
        if holder is None:
            try:
                # It may have been finished between the look and the claim.
                bank = read_bank(path) or _build(path, base_folder, settings, photos, report)
            finally:
                claims.release(name)
            break
        if not told:
            report(f"content bank: waiting for job {holder.job}, which builds it")
            told = True
        time.sleep(POLL_SECONDS)
    return bank


def _build(
    path: Path,
    base_folder: Path,
    settings: TrainSettings,
    photos: torch.Tensor | None,
    report: Callable[[str], None],
) -> Bank:
    started = time.perf_counter()
    if photos is not None:
        save_tensors(path / PHOTOS, {"photos": photos})
    size = settings.bank_size if photos is None else min(settings.bank_size, len(photos))
    starts = [s for s in range(0, size, CHUNK) if not shard_path(path, s).is_file()]
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), max(1, int(resources.get("CPU", 1)))
    # A thread a task, whatever the cluster: the threads' number would change the rounding.
    task = _shards.options(num_gpus=1 if gpus else 0, num_cpus=0 if gpus else 1, max_retries=3)
    count = max(1, min(gpus or cpus, len(starts)))
    arguments = (str(base_folder), str(path), settings.to_dict(), size, photos is not None)
    # The last task has the fewest shards: it also tells what the bank spares.
    waiting = [
        task.remote(*arguments, starts[i::count], bool(gpus), i == count - 1) for i in range(count)
    ]
    draw_seconds = sum(ray.get(waiting))
    seconds = time.perf_counter() - started
    info = {
        "contents": size,
        "seconds": round(seconds, 2),
        "draw_seconds": round(draw_seconds, 4),
        "base": base_folder.name,
        "settings": {
            name: getattr(settings, name) for name in FIELDS + (SAMPLED if photos is None else ())
        },
    }
    (path / PHOTOS).unlink(missing_ok=True)
    write_json(path / BANK_JSON, info)
    report(f"content bank: {size} contents encoded in {seconds:.1f} s")
    return Bank(path, size, seconds, draw_seconds)


def shard_path(path: Path, start: int) -> Path:
    """The shard that begins with content number ``start``."""
    return path / f"shard-{start // CHUNK:05d}.safetensors"


@ray.remote
def _shards(
    base: str,
    path: str,
    settings: dict[str, Any],
    size: int,
    photos: bool,
    starts: list[int],
    gpu: bool,
    measure: bool,
) -> float:
    """Compute shards; returns the seconds that sampling one content anew takes, where asked for."""
    from osasis.contents import SampledContents, bank_chunk, save_contents

    prepare_worker(1)
    device = "cuda" if gpu and torch.cuda.is_available() else "cpu"
    loaded, wanted = _base(base, device), TrainSettings.parse(settings)
    own = load_file(Path(path) / PHOTOS)["photos"] if photos else None
    for start in starts:
        chunk = bank_chunk(loaded, wanted, start, own).take(slice(size - start))
        save_contents(shard_path(Path(path), start), chunk)
    if not measure:
        return 0.0
    # As many as training draws: sampling z costs a batch hardly more than one content.
    started = time.perf_counter()
    source = SampledContents(loaded, wanted)
    drawn = source.draw(wanted.batch_size, torch.Generator().manual_seed(0))
    drawn.photo.sum().item()  # a GPU works on after the call
    return (time.perf_counter() - started) / wanted.batch_size


@lru_cache(maxsize=1)
def _base(folder: str, device: str) -> Base:
    from osasis.bundles.base import load_base

    return load_base(Path(folder), device)

"""Content banks: computed once on Ray for all styles of a base, stored by fingerprint.

A bank is a folder with ``shard-00000.safetensors`` and so on, and ``bank.json``, which is written
last. A base may bring banks along in its folder ``banks``, under the same names. Each shard is
computed by itself and deterministic: an interrupted build continues with the missing shards, and
the number of Ray tasks does not change the result.
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
from osasis.contents import BANK_ARITHMETIC, BANK_JSON, CHUNK, SHIPPED_BANKS, bank_photos
from osasis.settings import TrainSettings
from osasis.storage import save_tensors, sha256_text, write_json

# Settings that every bank depends on, and those that only a bank of sampled contents depends on.
FIELDS = ("encode_steps", "t0", "bank_size", "guide_input")
SAMPLED = ("decode_steps", "latent_steps", "seed")
PHOTOS = "photos.safetensors"
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Bank:
    """A complete content bank. seconds: build time; None for a bank that its base brings along."""

    folder: Path
    contents: int
    seconds: float | None


@dataclass(frozen=True)
class Photos:
    """Photos that a run uses as contents instead of the base's own: (N, 3, H, W) uint8."""

    tensor: torch.Tensor

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.tensor.numpy().tobytes()).hexdigest()[:16]


def bank_path(
    folder: Path, base: Base, settings: TrainSettings, photos: Photos | None = None
) -> Path | None:
    """The folder of the bank that these settings need.

    None where training needs no bank: contents are sampled in every iteration, and the photo
    counterpart is made by the base's prior or without photos.
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
    """The bank for each of the settings; missing banks are computed on Ray.

    Where several jobs need the same bank, one of them builds it and the others wait.
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
    """The bank in a folder; None where the bank is missing or incomplete."""
    try:
        info = json.loads((path / BANK_JSON).read_text())
    except FileNotFoundError:
        return None
    return Bank(path, info["contents"], info.get("seconds"))


def _ensure(
    path: Path,
    base_folder: Path,
    settings: TrainSettings,
    photos: torch.Tensor | None,
    report: Callable[[str], None],
    claims: Claims,
) -> Bank:
    found = read_bank(path) or read_bank(base_folder / SHIPPED_BANKS / path.name)
    if found is not None:
        return found
    name, told = f"bank-{path.name}", False
    while (bank := read_bank(path)) is None:
        holder = claims.acquire(name)
        if holder is None:
            try:
                # Another job may have finished the bank between read_bank and acquire.
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
    # Every task uses one thread: the number of threads changes how sums are rounded.
    task = _shards.options(num_gpus=1 if gpus else 0, num_cpus=0 if gpus else 1, max_retries=3)
    count = max(1, min(gpus or cpus, len(starts)))
    arguments = (str(base_folder), str(path), settings.to_dict(), size, photos is not None)
    ray.get([task.remote(*arguments, starts[i::count], bool(gpus)) for i in range(count)])
    seconds = time.perf_counter() - started
    info = {
        "contents": size,
        "seconds": round(seconds, 2),
        "base": base_folder.name,
        "arithmetic": BANK_ARITHMETIC,
        "settings": {
            name: getattr(settings, name) for name in FIELDS + (SAMPLED if photos is None else ())
        },
    }
    (path / PHOTOS).unlink(missing_ok=True)
    write_json(path / BANK_JSON, info)
    report(f"content bank: {size} contents encoded in {seconds:.1f} s")
    return Bank(path, size, seconds)


def shard_path(path: Path, start: int) -> Path:
    """The shard whose first content has the number ``start``."""
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
) -> None:
    """Compute and write the shards that begin with these content numbers."""
    from osasis.contents import bank_chunk, save_contents

    torch.set_num_threads(1)
    device = "cuda" if gpu and torch.cuda.is_available() else "cpu"
    loaded, wanted = _base(base, device), TrainSettings.parse(settings)
    own = load_file(Path(path) / PHOTOS)["photos"] if photos else None
    for start in starts:
        chunk = bank_chunk(loaded, wanted, start, own).take(slice(size - start))
        save_contents(shard_path(Path(path), start), chunk)


@lru_cache(maxsize=1)
def _base(folder: str, device: str) -> Base:
    from osasis.bundles.base import load_base

    return load_base(Path(folder), device)

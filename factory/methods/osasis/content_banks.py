"""Content banks of OSASIS: computed once on Ray for all styles of a base, stored by fingerprint.

A bank is a folder with ``shard-00000.safetensors`` and so on, and ``bank.json``, which is written
last. A base may ship banks under the same names in its folder ``banks``. Shards are independent
and deterministic: an interrupted build resumes with the missing shards, and the number of Ray
tasks does not change the result.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
import torch
from safetensors.torch import load_file

from factory.core.claims import Claims
from factory.core.failures import describe_failure
from factory.core.gpus import cluster_gpus, remote_task
from factory.methods.interface import Bank, ContentPhotos
from osasis.bundles.base import Base, load_base
from osasis.contents import (
    BANK_ARITHMETIC,
    BANK_JSON,
    CHUNK,
    SHIPPED_BANKS,
    bank_chunk,
    bank_photos,
    save_contents,
)
from osasis.errors import UserError
from osasis.settings import TrainSettings
from osasis.storage import save_tensors, sha256_text, write_json

# Settings in a bank's fingerprint, and further ones for a bank of sampled contents.
KEY_FIELDS = ("encode_steps", "encode_solver", "spacing", "t0", "bank_size", "guide_input")
SAMPLED_KEY_FIELDS = ("decode_steps", "decode_solver", "latent_steps", "seed")
PHOTOS = "photos.safetensors"
POLL_SECONDS = 1.0


def bank_path(
    folder: Path, base: Base, settings: TrainSettings, photos: ContentPhotos | None = None
) -> Path | None:
    """Path in ``folder`` of the bank that these settings need.

    None if training needs no bank: contents are sampled in every iteration, and the photo
    counterpart comes from the base's prior or needs no photos.
    """
    if settings.contents != "bank" and (base.photos is None or base.prior is not None):
        return None
    key: dict[str, Any] = {name: getattr(settings, name) for name in KEY_FIELDS}
    if photos is not None:
        key["photos"] = photos.fingerprint
    elif base.photos is None:
        key |= {name: getattr(settings, name) for name in SAMPLED_KEY_FIELDS}
    name = sha256_text(json.dumps([base.fingerprint, key], sort_keys=True))[:16]
    return folder / name


def ensure_banks(
    folder: Path,
    base_folder: Path,
    base: Base,
    settings: Sequence[TrainSettings],
    report: Callable[[str], None],
    claims: Claims,
    photos: ContentPhotos | None = None,
) -> list[Bank | None]:
    """The bank for each of the settings; missing banks are computed on Ray.

    If several jobs need the same bank, one of them builds it and the others wait.
    """
    banks: dict[Path, Bank] = {}
    out: list[Bank | None] = []
    for s in settings:
        path = bank_path(folder, base, s, photos)
        if path is not None and path not in banks:
            tensor = photos.tensor if photos is not None else bank_photos(base)
            banks[path] = _ensure(path, base_folder, s, tensor, report, claims)
        out.append(banks[path] if path is not None else None)
    return out


def ready_bank(
    folder: Path,
    base_folder: Path,
    base: Base,
    settings: TrainSettings,
    photos: ContentPhotos | None = None,
) -> tuple[bool, Path | None]:
    """Whether the bank for these settings exists or none is needed, and its folder."""
    path = bank_path(folder, base, settings, photos)
    if path is None:
        return True, None
    found = _existing(path, base_folder)
    return found is not None, found.folder if found is not None else None


def _existing(path: Path, base_folder: Path) -> Bank | None:
    """A bank of the home, or one that its base ships."""
    return read_bank(path) or read_bank(base_folder / SHIPPED_BANKS / path.name)


def read_bank(path: Path) -> Bank | None:
    """The bank in a folder; None if it is missing or incomplete."""
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
    found = _existing(path, base_folder)
    if found is not None:
        return found
    name, reported = f"bank-{path.name}", False
    while (bank := read_bank(path)) is None:
        holder = claims.acquire(name)
        if holder is None:
            try:
                # Another job may have finished the bank between read_bank and acquire.
                bank = read_bank(path) or _build(path, base_folder, settings, photos, report)
            finally:
                claims.release(name)
            break
        if not reported:
            report(f"content bank: waiting for job {holder.job}, which builds it")
            reported = True
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
    gpus, cpus = cluster_gpus(), max(1, int(ray.cluster_resources().get("CPU", 1)))
    task = remote_task(_compute_shards, gpus=1 if gpus else 0)
    count = max(1, min(gpus or cpus, len(starts)))
    device = "cuda" if gpus else "cpu"
    arguments = (base_folder, path, settings, size, photos is not None)
    try:
        ray.get([task.remote(*arguments, starts[i::count], device) for i in range(count)])
    except UserError as e:
        # Ray's error of a task is also a UserError, whose text is a traceback.
        raise UserError(f"content bank: {describe_failure(e)}") from None
    seconds = time.perf_counter() - started
    names = KEY_FIELDS + (SAMPLED_KEY_FIELDS if photos is None else ())
    info = {
        "contents": size,
        "seconds": round(seconds, 2),
        "base": base_folder.name,
        "arithmetic": BANK_ARITHMETIC,
        "settings": {name: getattr(settings, name) for name in names},
    }
    (path / PHOTOS).unlink(missing_ok=True)
    write_json(path / BANK_JSON, info)
    report(f"content bank: {size} contents encoded in {seconds:.1f} s")
    return Bank(path, size, seconds)


def shard_path(path: Path, start: int) -> Path:
    """Path of the shard whose first content has index ``start``."""
    return path / f"shard-{start // CHUNK:05d}.safetensors"


def _compute_shards(
    base_folder: Path,
    path: Path,
    settings: TrainSettings,
    size: int,
    has_photos: bool,
    starts: list[int],
    device: str,
) -> None:
    """Compute and write the shards whose first contents have the indices ``starts``."""
    # The number of threads changes the rounding of sums.
    torch.set_num_threads(1)
    base = _cached_base(base_folder, device)
    photos = load_file(path / PHOTOS)["photos"] if has_photos else None
    for start in starts:
        chunk = bank_chunk(base, settings, start, photos).take(slice(size - start))
        save_contents(shard_path(path, start), chunk)


# Named function: Ray pickles the cache wrapper by its module and name.
@lru_cache(maxsize=1)
def _cached_base(folder: Path, device: str) -> Base:
    return load_base(folder, device)

"""Content banks of OSASIS: computed once on Ray for all styles of a base, stored by fingerprint.

A bank is a folder, by path or URI, with ``shard-00000.safetensors`` and so on, and ``bank.json``,
which is written last. A base may ship banks under the same names in its folder ``banks``. Shards
are independent and deterministic: an interrupted build resumes with the missing shards, and the
number of Ray tasks does not change the result.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import ray
import torch
from safetensors.torch import load

from factory.core.claims import Claims
from factory.core.failures import describe_failure
from factory.core.gpus import cluster_gpus, remote_task
from factory.core.home import local_base
from factory.core.stores import open_store
from factory.methods.interface import Bank, ContentPhotos
from osasis.bundles.base import Base, load_base
from osasis.contents import (
    BANK_ARITHMETIC,
    BANK_JSON,
    CHUNK,
    SHIPPED_BANKS,
    bank_chunk,
    bank_photos,
)
from osasis.errors import UserError
from osasis.settings import TrainSettings
from osasis.storage import json_bytes, sha256_text, tensor_bytes

# Settings in a bank's fingerprint, and further ones for a bank of sampled contents.
KEY_FIELDS = ("encode_steps", "encode_solver", "spacing", "t0", "bank_size", "guide_input")
SAMPLED_KEY_FIELDS = ("decode_steps", "decode_solver", "latent_steps", "seed")
PHOTOS = "photos.safetensors"
POLL_SECONDS = 1.0


def bank_name(
    base: Base, settings: TrainSettings, photos: ContentPhotos | None = None
) -> str | None:
    """Name of the folder of the bank that these settings need.

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
    return sha256_text(json.dumps([base.fingerprint, key], sort_keys=True))[:16]


def ensure_banks(
    place: str,
    base_location: str,
    base: Base,
    settings: Sequence[TrainSettings],
    report: Callable[[str], None],
    claims: Claims,
    photos: ContentPhotos | None = None,
) -> list[Bank | None]:
    """The bank for each of the settings; missing banks are computed on Ray.

    place: path or URI of the folder that holds the banks. base_location: path or URI of the base.
    If several jobs need the same bank, one of them builds it and the others wait.
    """
    banks: dict[str, Bank] = {}
    out: list[Bank | None] = []
    for s in settings:
        name = bank_name(base, s, photos)
        if name is not None and name not in banks:
            tensor = photos.tensor if photos is not None else bank_photos(base)
            banks[name] = _ensure(f"{place}/{name}", base_location, s, tensor, report, claims)
        out.append(banks[name] if name is not None else None)
    return out


def ready_bank(
    place: str,
    base_location: str,
    base: Base,
    settings: TrainSettings,
    photos: ContentPhotos | None = None,
) -> tuple[bool, str | None]:
    """Whether the bank for these settings exists or none is needed, and its path or URI."""
    name = bank_name(base, settings, photos)
    if name is None:
        return True, None
    found = _existing(f"{place}/{name}", base_location)
    return found is not None, found.location if found is not None else None


def _existing(bank: str, base_location: str) -> Bank | None:
    """A bank of the home, or one that its base ships."""
    name = bank.rpartition("/")[2]
    return read_bank(bank) or read_bank(f"{base_location}/{SHIPPED_BANKS}/{name}")


def read_bank(location: str) -> Bank | None:
    """The bank in a folder by path or URI; None if it is missing or incomplete."""
    try:
        info = json.loads(open_store(location).read(BANK_JSON))
    except FileNotFoundError:
        return None
    return Bank(location, info["contents"], info.get("seconds"))


def _ensure(
    bank: str,
    base_location: str,
    settings: TrainSettings,
    photos: torch.Tensor | None,
    report: Callable[[str], None],
    claims: Claims,
) -> Bank:
    found = _existing(bank, base_location)
    name, reported = f"bank-{bank.rpartition('/')[2]}", False
    while found is None and (found := read_bank(bank)) is None:
        holder = claims.acquire(name)
        if holder is None:
            try:
                # Another job may have finished the bank between read_bank and acquire.
                found = read_bank(bank) or _build(bank, base_location, settings, photos, report)
            finally:
                claims.release(name)
            break
        if not reported:
            report(f"content bank: waiting for job {holder.job}, which builds it")
            reported = True
        time.sleep(POLL_SECONDS)
    return found


def _build(
    bank: str,
    base_location: str,
    settings: TrainSettings,
    photos: torch.Tensor | None,
    report: Callable[[str], None],
) -> Bank:
    started, store = time.perf_counter(), open_store(bank)
    if photos is not None:
        store.write(PHOTOS, tensor_bytes({"photos": photos}))
    size = settings.bank_size if photos is None else min(settings.bank_size, len(photos))
    there = set(store.list())
    starts = [s for s in range(0, size, CHUNK) if shard_name(s) not in there]
    gpus, cpus = cluster_gpus(), max(1, int(ray.cluster_resources().get("CPU", 1)))
    task = remote_task(_compute_shards, gpus=1 if gpus else 0)
    count = max(1, min(gpus or cpus, len(starts)))
    device = "cuda" if gpus else "cpu"
    arguments = (base_location, bank, settings, size, photos is not None)
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
        "base": base_location.rpartition("/")[2],
        "arithmetic": BANK_ARITHMETIC,
        "settings": {name: getattr(settings, name) for name in names},
    }
    store.delete([PHOTOS])
    store.write(BANK_JSON, json_bytes(info))
    report(f"content bank: {size} contents encoded in {seconds:.1f} s")
    return Bank(bank, size, seconds)


def shard_name(start: int) -> str:
    """File name of the shard whose first content has index ``start``."""
    return f"shard-{start // CHUNK:05d}.safetensors"


def _compute_shards(
    base_location: str,
    bank: str,
    settings: TrainSettings,
    size: int,
    has_photos: bool,
    starts: list[int],
    device: str,
) -> None:
    """Compute and write the shards whose first contents have the indices ``starts``."""
    # The number of threads changes the rounding of sums.
    torch.set_num_threads(1)
    base, store = _cached_base(base_location, device), open_store(bank)
    photos = load(store.read(PHOTOS))["photos"] if has_photos else None
    for start in starts:
        chunk = bank_chunk(base, settings, start, photos).take(slice(size - start))
        store.write(shard_name(start), tensor_bytes(chunk.tensors()))


# Named function: Ray pickles the cache wrapper by its module and name.
@lru_cache(maxsize=1)
def _cached_base(location: str, device: str) -> Base:
    return load_base(local_base(location), device)

"""Content banks: computed once for every style of a base, kept by fingerprint."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray

from osasis.base import Base
from osasis.settings import TrainSettings
from osasis.storage import sha256_text

# The settings that a bank depends on; sampled contents depend on the seed as well.
FIELDS = ("encode_steps", "decode_steps", "latent_steps", "t0", "precision", "bank_size")


def bank_path(folder: Path, base: Base, settings: TrainSettings) -> Path | None:
    """Where the bank of a base and settings is kept.

    None where the settings sample their contents anew and no counterpart leans on photos.
    """
    if settings.contents != "bank" and (base.photos is None or base.prior is not None):
        return None
    key: dict[str, Any] = {name: getattr(settings, name) for name in FIELDS}
    if base.photos is None:
        key["seed"] = settings.seed
    name = sha256_text(json.dumps([base.fingerprint, key], sort_keys=True))[:16]
    return folder / f"{name}.safetensors"


def ensure_banks(
    folder: Path,
    base_folder: Path,
    base: Base,
    settings: Sequence[TrainSettings],
    report: Callable[[str], None],
) -> list[Path | None]:
    """The bank of each of the settings; those that are missing are computed on the cluster."""
    paths = [bank_path(folder, base, s) for s in settings]
    missing = {p: s for p, s in zip(paths, settings, strict=True) if p and not p.is_file()}
    gpu = ray.cluster_resources().get("GPU", 0) >= 1
    # A bank takes a GPU, or the CPUs of the largest node.
    cpus = min(8, max(int(n["Resources"].get("CPU", 0)) for n in ray.nodes() if n["Alive"]))
    task = _build.options(num_gpus=1 if gpu else 0, num_cpus=0 if gpu else cpus)
    for path, wanted in missing.items():
        started = time.perf_counter()
        arguments = (str(base_folder), str(path), wanted.to_dict(), "cuda" if gpu else "cpu")
        count = ray.get(task.remote(*arguments, max(1, cpus)))
        seconds = time.perf_counter() - started
        report(f"content bank: {count} contents encoded in {seconds:.1f} s")
    return paths


@ray.remote
def _build(base: str, path: str, settings: dict[str, Any], device: str, threads: int) -> int:
    import torch

    from osasis.base import load_base
    from osasis.contents import build_bank

    if device == "cpu":
        torch.set_num_threads(threads)
    bank = build_bank(load_base(Path(base), device), TrainSettings(**settings))
    bank.save(Path(path))
    return len(bank.contents)

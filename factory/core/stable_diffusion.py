"""Import of a Stable Diffusion as a base: from a folder, a single file or the Hugging Face hub."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from factory.core.bases import check_name, example_photos, install_base
from factory.core.disk import disk_named
from factory.core.home import Home
from osasis.errors import UserError
from osasis.storage import FULL, save_tensors, sha256_file

Dtype = Literal["float16", "float32"]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Files of a model on the hub that are no weights.
CONFIGURATIONS = (
    "model_index.json",
    "scheduler/*",
    "tokenizer/*",
    "unet/*.json",
    "vae/*.json",
    "text_encoder/*.json",
)
PARTS = ("unet", "vae", "text_encoder")
PHOTOS = "photos.safetensors"


@dataclass(frozen=True)
class Source:
    """A model on this machine. facts: where it came from, for base.json."""

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)


def import_stable_diffusion(
    home: Home,
    name: str,
    model: str,
    *,
    config: Path | None = None,
    revision: str | None = None,
    dtype: Dtype = "float16",
    photos: Path | None = None,
    max_photos: int = 256,
    licence: str = "",
    replace: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Check a Stable Diffusion and install it as a base of this home; returns its base.json.

    model: a folder in the diffusers layout, a single safetensors file, or OWNER/NAME on the Hugging
    Face hub. config: for a single file, a folder in the diffusers layout of its architecture.
    revision: branch, tag or commit on the hub. dtype: of the installed weights; half the size in
    float16. photos: folder of photos, of which up to ``max_photos`` are stored with the base.
    replace: overwrite a different base of this name. Raises UserError and DiskFullError.
    """
    check_name(name, "base")
    with disk_named(home.path):
        source = find_model(model, revision, dtype, report)
        return install_model(
            home,
            name,
            source,
            config=config,
            dtype=dtype,
            photos=photos,
            max_photos=max_photos,
            licence=licence,
            replace=replace,
        )


def install_model(
    home: Home,
    name: str,
    source: Source,
    *,
    config: Path | None = None,
    dtype: Dtype = "float16",
    preset: str = "default",
    photos: Path | None = None,
    max_photos: int = 256,
    licence: str = "",
    replace: bool = False,
) -> dict[str, Any]:
    """Check a model on this machine and install it.

    preset: with which its styles train by default. Others: of ``import_stable_diffusion``.
    """
    # Importing torch and diffusers takes seconds, and diffusers may be missing.
    import torch

    from diffstyler.base import load_base
    from diffstyler.bundle import write_base_json
    from diffstyler.model_files import save_model

    kind = torch.float16 if dtype == "float16" else torch.float32
    base = load_base(source.path, dtype=kind, config=config)
    # Written to a staging folder and renamed, so that an interrupted import leaves no base.
    staging = home.path / f"importing-{name}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        networks = {part: getattr(base, part) for part in PARTS}
        save_model(staging, networks, config or source.path, kind)
        if photos is not None:
            stored = example_photos(photos, base.image_size, max_photos)
            save_tensors(staging / PHOTOS, {"photos": stored})
        provenance = {
            "sources": {"stable_diffusion": source.facts | _hashes(source.path)},
            "dtype": dtype,
            "licence": licence,
        }
        info = write_base_json(
            staging,
            name=name,
            image_size=base.image_size,
            preset=preset,
            provenance=provenance,
        )
        install_base(home, staging, info, replace)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return info


def _hashes(path: Path) -> dict[str, Any]:
    """SHA-256 of a single file, or of a folder's weights."""
    if path.is_file():
        return {"file": path.name, "sha256": sha256_file(path)}
    weights = sorted(p for part in PARTS for p in (path / part).glob("*.safetensors"))
    return {"folder": path.name} | {
        "sha256": {str(p.relative_to(path).as_posix()): sha256_file(p) for p in weights}
    }


def find_model(
    model: str, revision: str | None, dtype: Dtype, report: Callable[[str], None]
) -> Source:
    """The model at a local path, else downloaded from the hub. Raises UserError."""
    path = Path(model).expanduser()
    if path.exists():
        if revision is not None:
            raise UserError(f"{model} is on this machine; --revision is for models on the hub")
        return Source(path)
    if HUB_ID.fullmatch(model) is None:
        raise UserError(
            f"{model}: no such file or folder; give a folder in the diffusers layout, a single "
            "safetensors file, or OWNER/NAME of a model on the Hugging Face hub"
        )
    return _download(model, revision, dtype, report)


def _download(
    model: str, revision: str | None, dtype: Dtype, report: Callable[[str], None]
) -> Source:
    """Download a model's configurations and one variant of its weights."""
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError as e:
        raise UserError(
            f"DiffStyler needs the package {e.name}: pip install 'style-factory[diffstyler]'"
        ) from None
    try:
        found = HfApi().model_info(model, revision=revision)
        names = [s.rfilename for s in found.siblings or []]
        report(f"downloading {model}, revision {found.sha}")
        folder = snapshot_download(
            model, revision=found.sha, allow_patterns=[*CONFIGURATIONS, *weight_files(names, dtype)]
        )
    # Beside its own errors the hub's client raises those of its HTTP library.
    except Exception as e:
        if isinstance(e, OSError) and e.errno in FULL:
            raise
        reason = " ".join(str(e).split())[:300]
        raise UserError(
            f"{model}: no such file or folder, and it cannot be read from the Hugging Face hub "
            f"({reason}); check the name and the network, log in with `hf auth login` where the "
            "model asks for it, or give a local folder"
        ) from None
    return Source(Path(folder), {"hub": model, "revision": found.sha})


def weight_files(names: list[str], dtype: Dtype) -> list[str]:
    """The weights to download: of each part one variant, that of ``dtype`` if there is one."""
    chosen = []
    for part in PARTS:
        weights = [n for n in names if n.startswith(f"{part}/") and n.endswith(".safetensors")]
        halves = [n for n in weights if ".fp16" in n]
        full = [n for n in weights if not re.search(r"\.(fp16|non_ema|ema)\b", n)]
        first, second = (halves, full) if dtype == "float16" else (full, halves)
        chosen += first or second
    return chosen

"""Bases of an installation: import, list, describe."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from factory.core.home import Home
from factory.core.local_copy import upload
from factory.core.stores import local_folder, open_store
from osasis.bundles.base import read_base_info, save_base
from osasis.bundles.files import BASE_JSON, read_base_json
from osasis.bundles.importers import read_diffae, read_prior
from osasis.errors import ImageError, UserError
from osasis.guides.guide import StatisticsGuide, open_clip_guide
from osasis.guides.perceptual import PerceptualNet
from osasis.images.decoding import load_image
from osasis.images.geometry import fit_square
from osasis.images.listing import find_images
from osasis.images.tensors import image_to_tensor
from osasis.networks.sizes import load_config
from osasis.storage import sha256_file, write_atomic

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
NAME_RULE = "use 1 to 63 of a-z, 0-9, '.', '-', '_', a letter or digit first"


@dataclass(frozen=True)
class GuideChoice:
    """The guide to build: statistics of the perceptual net, or an open_clip model.

    stages, grid: for kind ``statistics``. model, pretrained (a tag or a local checkpoint) and
    config (a model configuration file): for kind ``open_clip``.
    """

    kind: str = "statistics"
    stages: tuple[int, ...] = (0, 1, 2, 3)
    grid: int = 1
    model: str = "ViT-B-32"
    pretrained: str | None = "openai"
    config: Path | None = None


def import_base(
    home: Home,
    name: str,
    *,
    config: str,
    diffae: Path,
    latent_stats: Path | None = None,
    prior: Path | None = None,
    guide: GuideChoice | None = None,
    perceptual_net: str = "vgg",
    perceptual_weights: Path | None = None,
    like: Path | None = None,
    photos: Path | None = None,
    max_photos: int = 256,
    licence: str = "",
    replace: bool = False,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Convert official checkpoints into a base of this installation; returns its base.json.

    like: folder of a base whose guide and perceptual net are copied; ``guide`` and the perceptual
    arguments are then ignored. photos: folder of photos of the base's domain; up to ``max_photos``
    of them, evenly spread over the folder, are stored with the base as contents for training.
    replace: overwrite a different base of this name; styles of the old base become unusable.
    report: called with one line about files of the folder that are left out. Raises UserError.
    """
    check_name(name, "base")
    sizes = load_config(config)
    tensors, mean, std = read_diffae(diffae, sizes, latent_stats)
    prior_tensors = read_prior(prior, sizes) if prior is not None else None
    parts = _load_guide_parts(guide or GuideChoice(), perceptual_net, perceptual_weights, like)
    sources = {"diffae": diffae, "latent_stats": latent_stats, "prior": prior}
    # Written to a staging folder and renamed, so that an interrupted import leaves no partial base.
    staging = home.path / f"importing-{name}"
    shutil.rmtree(staging, ignore_errors=True)
    for path in parts.extra_files:
        write_atomic(staging / path.name, path.read_bytes())
    info = save_base(
        staging,
        name=name,
        config=sizes,
        diffae=tensors,
        z_mean=mean,
        z_std=std,
        guide=parts.guide,
        guide_weights=parts.guide_weights,
        perceptual=parts.perceptual,
        prior=prior_tensors,
        photos=example_photos(photos, sizes.image_size, max_photos, report) if photos else None,
        provenance={
            "sources": {
                k: {"file": p.name, "sha256": sha256_file(p)} for k, p in sources.items() if p
            },
            "licence": licence,
        },
    )
    install_base(home, staging, info, replace)
    return info


def install_base(home: Home, staging: Path, info: dict[str, Any], replace: bool) -> None:
    """Move a new base into the home. info: its base.json.

    Raises UserError where a different base has the name.
    """
    place = open_store(home.shared(home.bases / info["name"]))
    with contextlib.suppress(FileNotFoundError):
        existing = json.loads(place.read(BASE_JSON)).get("fingerprint")
        if existing != info["fingerprint"] and not replace:
            shutil.rmtree(staging)
            raise UserError(
                f"base {info['name']!r} already exists with other content ({existing}), and its "
                "styles need it; choose another name, or give --replace"
            )
        place.delete_folder("")
    if (folder := local_folder(place)) is not None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging.replace(folder)
        return
    upload(staging, place, BASE_JSON)
    shutil.rmtree(staging)


def list_bases(home: Home) -> list[dict[str, Any]]:
    """Describe every base, sorted by name."""
    return [describe_base(home, name) for name in home.base_names()]


def describe_base(home: Home, name: str | None) -> dict[str, Any]:
    """The content of base.json, with the base's folder and its size in bytes."""
    folder = home.base_folder(name)
    return {
        **read_base_json(folder),
        "folder": home.base_location(folder),
        "bytes": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
    }


def example_photos(
    folder: Path, size: int, limit: int, report: Callable[[str], None] | None = None
) -> torch.Tensor:
    """Up to ``limit`` photos, evenly spread over a folder, as (N, 3, size, size) uint8.

    report: called with one line about files that are left out. Skips files that cannot be read;
    raises UserError where no file can be read.
    """
    found = find_images(folder, report)
    count = min(limit, len(found))
    kept, reasons = [], []
    for path in (found[i * len(found) // count] for i in range(count)):
        try:
            image = fit_square(load_image(path, target=size), size)
        except ImageError as e:
            reasons.append(str(e))
            continue
        kept.append(((image_to_tensor(image) + 1) * 127.5).round().to(torch.uint8))
    if not kept:
        raise UserError(f"{folder}: no photo can be read (first: {reasons[0]})")
    return torch.stack(kept)


def check_name(name: str, what: str) -> None:
    """Raise UserError for a name that is not safe in paths, URLs and MLflow."""
    if not NAME.fullmatch(name):
        raise UserError(f"{what} name {name!r}: {NAME_RULE}")


@dataclass(frozen=True)
class _GuideParts:
    """Guide and perceptual net of a base.

    guide: the guide's entry in base.json. extra_files: files to copy into the base's folder.
    """

    guide: dict[str, Any]
    guide_weights: dict[str, torch.Tensor] | None
    perceptual: PerceptualNet
    extra_files: tuple[Path, ...] = ()


def _load_guide_parts(
    choice: GuideChoice, net: str, weights: Path | None, like: Path | None
) -> _GuideParts:
    if like is not None:
        info = read_base_info(like)
        spec = info["guide"]
        guide_file = like / "guide.safetensors"
        config = spec.get("config")
        return _GuideParts(
            spec,
            load_file(guide_file) if guide_file.is_file() else None,
            PerceptualNet(info["perceptual"]["net"], like / "perceptual.safetensors"),
            (like / config,) if config else (),
        )
    perceptual = PerceptualNet(net, weights)
    if choice.kind == "statistics":
        StatisticsGuide(perceptual, choice.stages, choice.grid)  # validates the stages
        spec = {"kind": "statistics", "stages": list(choice.stages), "grid": choice.grid}
        return _GuideParts(spec, None, perceptual)
    guide = open_clip_guide(choice.model, choice.pretrained, choice.config)
    spec = {
        "kind": "open_clip",
        "model": choice.model,
        "pretrained": choice.pretrained,
        "config": choice.config.name if choice.config else None,
        "facts": guide.metadata,
    }
    extra_files = (choice.config,) if choice.config else ()
    return _GuideParts(spec, guide.model.state_dict(), perceptual, extra_files)

"""Builds the gallery of a training run from the registry."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from factory.catalog import CatalogEntry
from factory.core.uris import base_name
from factory.methods import LoadedBase
from factory.registry import CHAMPION, GATE_TAG, PREVIEWS_TAG, StyleVersion
from factory.registry.versions import read_evaluation, read_training
from factory.reports.gallery import Gallery, GalleryStyle, duration, write_gallery
from factory.reports.results import STATES, StyleResult, TrainResult
from osasis.bundles.files import COUNTERPART_PNG, STYLE_JSON, STYLE_PNG
from osasis.errors import UserError
from osasis.images.decoding import load_image, png_bytes
from osasis.images.geometry import fit_square
from osasis.images.tensors import tensor_to_image
from osasis.storage import write_atomic

THUMBNAIL = 64


def write_run_gallery(
    run: TrainResult,
    entries: Sequence[CatalogEntry],
    base: LoadedBase,
    photos: torch.Tensor,
    photos_hash: str,
    registered: Mapping[str, Sequence[StyleVersion]],
    read: Callable[[str], bytes],
) -> None:
    """Write ``run.gallery`` and a thumbnail strip per registered style.

    photos: (N, 3, H, W) in [-1, 1]. photos_hash: their hash, compared with a version's previews
    tag. registered: versions by style. read: returns the bytes of a style image's location.
    """
    by_id = {e.id: e for e in entries}
    versions = {(v.style, v.version): v for vs in registered.values() for v in vs}
    styles = []
    for result in run.styles:
        entry, version = by_id[result.id], versions.get((result.id, result.version or 0))
        if version is None:
            styles.append(_failed(result, entry, base, len(photos), read))
        else:
            styles.append(_style(result, entry, version, base, len(photos), photos_hash))
            images = [styles[-1].style_png, *filter(None, styles[-1].stylized[:3])]
            write_atomic(run.folder / "thumbnails" / f"{result.id}.webp", _strip(images))
    counts = {s: run.count(s) for s in STATES}
    write_gallery(
        run.gallery,
        Gallery(
            title=f"Styles of {run.folder.name}",
            created=time.strftime("%Y-%m-%d %H:%M"),
            base=base.name,
            photos=tuple(
                (f"photo {i + 1}", png_bytes(tensor_to_image(p))) for i, p in enumerate(photos)
            ),
            styles=tuple(styles),
            summary={"styles": len(styles), **counts, "wall time": duration(run.seconds)},
        ),
    )


def _failed(
    result: StyleResult,
    entry: CatalogEntry,
    base: LoadedBase,
    photos: int,
    read: Callable[[str], bytes],
) -> GalleryStyle:
    return GalleryStyle(
        id=result.id,
        state="failed",
        style_png=_style_png(entry, base.image_size, read),
        stylized=(None,) * photos,
        provenance={"image": base_name(entry.image), "kind of failure": result.kind},
        reason=result.reason,
        tags=entry.tags,
    )


def _style(
    result: StyleResult,
    entry: CatalogEntry,
    version: StyleVersion,
    base: LoadedBase,
    photos: int,
    photos_hash: str,
) -> GalleryStyle:
    """A registered style, read from its version's files without registry queries."""
    folder = version.folder()
    info = json.loads((folder / STYLE_JSON).read_text())
    trained = read_training(folder)
    previews: list[bytes | None] = []
    # Previews of a style of an earlier run may show other photos.
    if version.tags.get(PREVIEWS_TAG) == photos_hash:
        previews += [p.read_bytes() for p in version.previews()[:photos]]
    history = trained.get("history") or []
    losses = {name: [row[name] for row in history] for name in (history[0] if history else {})}
    gate = version.tags.get(GATE_TAG)
    return GalleryStyle(
        id=result.id,
        state=result.state,
        version=str(version.version),
        champion=CHAMPION in version.aliases,
        style_png=(folder / STYLE_PNG).read_bytes(),
        counterpart_png=_optional(folder / COUNTERPART_PNG),
        stylized=tuple(previews + [None] * (photos - len(previews))),
        losses={k: v for k, v in losses.items() if any(v)},
        metrics={**(trained.get("metrics") or {}), **read_evaluation(version)},
        settings=info["settings"],
        provenance={
            "image": base_name(entry.image),
            "fingerprint": version.fingerprint,
            "base": f"{base.name} ({version.base})",
            "run": version.run_id,
            "weights": info["weights_sha256"][:16],
            "licence": entry.licence,
            "tags": list(entry.tags),
        },
        seconds=result.seconds,
        reason=f"Candidate: {gate}" if gate and CHAMPION not in version.aliases else None,
        tags=entry.tags,
    )


def _optional(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _style_png(entry: CatalogEntry, size: int, read: Callable[[str], bytes]) -> bytes:
    """The style image as PNG; empty if it cannot be decoded."""
    try:
        data = read(entry.image)
        return png_bytes(fit_square(load_image(data, name=entry.image, target=size), size))
    except UserError:
        return b""


def _strip(images: list[bytes]) -> bytes:
    """Thumbnails side by side as WebP, for ``TrainResult`` in a notebook."""
    strip = Image.new("RGB", (THUMBNAIL * len(images), THUMBNAIL))
    for i, data in enumerate(images):
        strip.paste(fit_square(load_image(data), THUMBNAIL), (THUMBNAIL * i, 0))
    buffer = io.BytesIO()
    strip.save(buffer, "WEBP", quality=85)
    return buffer.getvalue()

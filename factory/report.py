"""The gallery of a training run, gathered from the registry."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from factory.catalog import CatalogEntry
from factory.gallery import Gallery, GalleryStyle, duration, write_gallery
from factory.registry import PREVIEWS_TAG, Registry
from osasis.base import Base
from osasis.errors import UserError
from osasis.images import load_square, png_bytes, tensor_to_image
from osasis.losses import LOSS_NAMES

if TYPE_CHECKING:
    from factory.train import StyleResult, TrainResult


def write_run_gallery(
    run: TrainResult,
    entries: list[CatalogEntry],
    base: Base,
    photos: torch.Tensor,
    photos_hash: str,
    registry: Registry,
) -> None:
    """Write ``run.gallery``: every style of the run on the same photos, with its figures."""
    by_id = {e.id: e for e in entries}
    styles = tuple(
        _style(r, by_id[r.id], base, len(photos), photos_hash, registry) for r in run.styles
    )
    counts = {
        state: sum(s.state == state for s in run.styles)
        for state in ("registered", "skipped", "failed")
    }
    write_gallery(
        run.gallery,
        Gallery(
            title=f"Styles of {run.folder.name}",
            created=time.strftime("%Y-%m-%d %H:%M"),
            base=base.name,
            photos=tuple(
                (f"photo {i + 1}", png_bytes(tensor_to_image(p))) for i, p in enumerate(photos)
            ),
            styles=styles,
            summary={"styles": len(styles), **counts, "wall time": duration(run.seconds)},
        ),
    )


def _style(
    result: StyleResult,
    entry: CatalogEntry,
    base: Base,
    photos: int,
    photos_hash: str,
    registry: Registry,
) -> GalleryStyle:
    if result.version is None:
        return GalleryStyle(
            id=result.id,
            state="failed",
            version=None,
            champion=False,
            style_png=_picture(entry.image, base.config.image_size),
            counterpart_png=None,
            stylized=(None,) * photos,
            losses={},
            metrics={},
            settings={},
            provenance={"image": entry.image.name},
            seconds=None,
            reason=result.reason,
        )
    version = registry.get(result.id, str(result.version))
    folder = version.folder()
    run = registry.client.get_run(version.run_id)
    shown: list[bytes | None] = []
    # A style of an earlier run may have been shown on other photos.
    if version.tags.get(PREVIEWS_TAG) == photos_hash:
        shown += [p.read_bytes() for p in version.previews()[:photos]]
    losses = {
        name: [m.value for m in registry.client.get_metric_history(version.run_id, name)]
        for name in LOSS_NAMES
        if name in run.data.metrics
    }
    return GalleryStyle(
        id=result.id,
        state=result.state,
        version=str(version.version),
        champion="champion" in version.aliases,
        style_png=(folder / "style.png").read_bytes(),
        counterpart_png=(folder / "counterpart.png").read_bytes(),
        stylized=tuple(shown + [None] * (photos - len(shown))),
        losses={k: v for k, v in losses.items() if any(v)},
        metrics={k: v for k, v in run.data.metrics.items() if k not in LOSS_NAMES},
        settings=dict(run.data.params),
        provenance={
            "image": entry.image.name,
            "fingerprint": version.fingerprint,
            "base": f"{base.name} ({version.base})",
            "run": version.run_id,
            "licence": entry.licence,
        },
        seconds=result.seconds,
        reason=None,
    )


def _picture(path: Path, size: int) -> bytes:
    """The style image where it can be shown, else nothing."""
    try:
        return png_bytes(tensor_to_image(load_square(path, size)))
    except UserError:
        return b""

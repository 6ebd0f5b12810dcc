"""Registered versions of styles, and access to their artifacts."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from factory.core.home import Home
from osasis.evaluation.names import PREFIX

CHAMPION, CANDIDATE = "champion", "candidate"
# File of a bundle with the losses and metrics of the training.
TRAINING_FILE = "training.json"
# Artifact of a run: the newest evaluation of its style.
EVALUATION_FILE = "evaluation.json"
# Tag: hash of the photos in a version's previews.
PREVIEWS_TAG = "previews"
# Tag: why the quality gate rejected a version as champion.
GATE_TAG = "gate"


@dataclass(frozen=True)
class StyleVersion:
    """One registered version of a style.

    fingerprint: hash of the training run. base: fingerprint of the base. source: URI of the bundle.
    cache: folder for downloads of the run's artifacts.
    """

    style: str
    version: int
    fingerprint: str
    base: str
    run_id: str
    source: str
    aliases: tuple[str, ...]
    created_ms: int
    tags: dict[str, str]
    tracking_uri: str
    cache: Path

    @property
    def reference(self) -> str:
        return f"{self.style}:{self.version}"

    @property
    def in_home(self) -> bool:
        """Whether the bundle is on a local file system rather than in a server's store."""
        return local_path(self.source) is not None

    def folder(self) -> Path:
        """The bundle's folder: the stored one for local artifacts, else a cached download."""
        return bundle_folder(self.source, self.tracking_uri, self.cache)

    def previews(self) -> list[Path]:
        """The logged preview images, in order."""
        try:
            if (local := local_path(self.source)) is not None:
                folder = local.parent / "previews"
            else:
                folder = _download(
                    self.cache / "previews",
                    self.tracking_uri,
                    run_id=self.run_id,
                    artifact_path="previews",
                )
        except OSError:  # imported styles can lack previews
            return []
        return sorted(folder.glob("*.png"))


def read_evaluation(version: StyleVersion) -> dict[str, float]:
    """The metrics of a version's newest evaluation, by their names in the registry.

    Empty without an evaluation, and for artifacts of a server, which are not downloaded for it.
    """
    local = local_path(version.source)
    path = None if local is None else local.parent / EVALUATION_FILE
    if path is None or not path.is_file():
        return {}
    document = json.loads(path.read_text())
    estimates = document["results"][document["own"]]
    return {PREFIX + n: e["value"] for n, e in estimates.items() if e["value"] is not None}


def bundle_folder(source: str, tracking_uri: str, cache: Path) -> Path:
    """The local folder of a logged bundle; downloads the bundle of a server or object store."""
    if (local := local_path(source)) is not None:
        return local
    return _download(cache / "style", tracking_uri, artifact_uri=source)


def read_training(bundle: Path) -> dict[str, Any]:
    """History and metrics of a style's training; empty for a style of the published code."""
    path = bundle / TRAINING_FILE
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return results


def _download(cached: Path, tracking_uri: str, **artifact: str) -> Path:
    """Download artifacts to ``cached``, at most once: a run's artifacts never change."""
    import mlflow

    if cached.is_dir():
        return cached
    target = cached.with_name(f".{cached.name}-{os.getpid()}-{os.urandom(4).hex()}")
    target.mkdir(parents=True)
    try:
        with discard_stdout():
            downloaded = mlflow.artifacts.download_artifacts(
                **artifact, tracking_uri=tracking_uri, dst_path=str(target)
            )
        with contextlib.suppress(OSError):  # another process has filled the cache
            Path(downloaded).replace(cached)
        return cached
    finally:
        shutil.rmtree(target, ignore_errors=True)


def current_of(versions: Iterable[StyleVersion]) -> StyleVersion:
    """The champion, else the newest version. versions: all of a style, newest first."""
    versions = list(versions)
    return next((v for v in versions if CHAMPION in v.aliases), versions[0])


def from_mlflow(v: Any, model: Any, home: Home) -> StyleVersion:
    """Convert MLflow's ``ModelVersion`` of a ``RegisteredModel``."""
    return StyleVersion(
        style=v.name,
        version=int(v.version),
        fingerprint=v.tags.get("fingerprint", ""),
        base=v.tags.get("base", ""),
        run_id=v.run_id or "",
        source=source_in_home(v.source, home, v.run_id or ""),
        aliases=tuple(sorted(a for a, n in model.aliases.items() if int(n) == int(v.version))),
        created_ms=int(v.creation_timestamp),
        tags={k: t for k, t in v.tags.items() if k not in ("fingerprint", "base")},
        tracking_uri=home.tracking_uri,
        cache=home.artifact_cache(v.run_id or ""),
    )


def source_in_home(source: str, home: Home, run_id: str) -> str:
    """The URI of a bundle where the home lies now.

    MLflow stores absolute paths. The artifacts of a home's own registry are below the home, also
    after it was moved, copied or restored.
    """
    local = local_path(source)
    kept_in_home = home.tracking_uri == home.own_tracking_uri and local is not None
    if not kept_in_home or local is None or local.parts[-3:-1] != (run_id, "artifacts"):
        return source
    return (home.artifacts / run_id / "artifacts" / local.name).as_uri()


def local_path(source: str) -> Path | None:
    """The local folder of an artifact URI; None for artifacts of a server or object store."""
    parts = urlsplit(source)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") else None


def discard_stdout() -> contextlib.AbstractContextManager[Any]:
    """Discard standard output: MLflow prints notices there, which would break ``--json``."""
    return contextlib.redirect_stdout(io.StringIO())

"""A registered version of a style, and where its files are."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

CHAMPION, CANDIDATE = "champion", "candidate"
# Curves and metrics of a style's training, in its bundle.
TRAINING = "training.json"
# Hash of the photos that a version's previews show.
PREVIEWS_TAG = "previews"
# Why the quality gate kept a version from becoming champion.
GATE_TAG = "gate"


@dataclass(frozen=True)
class StyleVersion:
    """One registered version of a style. folder: its bundle, on this machine."""

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
    cache: Path | None = None

    @property
    def reference(self) -> str:
        return f"{self.style}:{self.version}"

    def folder(self) -> Path:
        """The style's folder; with local artifacts this is the stored one, not a copy.

        A server's is downloaded once and kept below the home.
        """
        if (local := local_path(self.source)) is not None:
            return local
        return self._fetched("style", artifact_uri=self.source)

    def previews(self) -> list[Path]:
        """The preview images that were logged with it, in order."""
        local = local_path(self.source)
        try:
            if local is not None:
                folder = local.parent / "previews"
            else:
                folder = self._fetched("previews", run_id=self.run_id, artifact_path="previews")
        except OSError:  # an imported style has none
            return []
        return sorted(folder.glob("*.png"))

    def _fetched(self, part: str, **where: str) -> Path:
        """A download, kept by run: artifacts never change."""
        import mlflow

        kept = self.cache / "artifacts" / self.run_id / part if self.cache is not None else None
        if kept is not None and kept.is_dir():
            return kept
        target = None
        if kept is not None:
            target = kept.with_name(f".{part}-{os.getpid()}-{os.urandom(4).hex()}")
            target.mkdir(parents=True)
        try:
            with quiet():
                got = mlflow.artifacts.download_artifacts(
                    **where,
                    tracking_uri=self.tracking_uri,
                    dst_path=str(target) if target is not None else None,
                )
            if kept is None:
                return Path(got)
            with contextlib.suppress(OSError):  # another process was first
                Path(got).replace(kept)
            return kept
        finally:
            if target is not None:
                shutil.rmtree(target, ignore_errors=True)


def current_of(versions: Iterable[StyleVersion]) -> StyleVersion:
    """Of a style's versions, newest first: the champion, else the newest."""
    versions = list(versions)
    return next((v for v in versions if CHAMPION in v.aliases), versions[0])


def version_of(v: Any, aliases: list[str], tracking_uri: str, cache: Path) -> StyleVersion:
    """A version as MLflow tells it."""
    return StyleVersion(
        style=v.name,
        version=int(v.version),
        fingerprint=v.tags.get("fingerprint", ""),
        base=v.tags.get("base", ""),
        run_id=v.run_id or "",
        source=v.source,
        aliases=tuple(sorted(aliases)),
        created_ms=int(v.creation_timestamp),
        tags={k: t for k, t in v.tags.items() if k not in ("fingerprint", "base")},
        tracking_uri=tracking_uri,
        cache=cache,
    )


def local_path(source: str) -> Path | None:
    """The folder of an artifact on this machine; None where a server or another store has it."""
    parts = urlsplit(source)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") else None


def quiet() -> contextlib.AbstractContextManager[Any]:
    """MLflow prints progress bars and notices to standard output, which is ours for --json."""
    return contextlib.redirect_stdout(io.StringIO())

"""The registry: one registered model a style, a version a fingerprint (MLflow)."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.home import Home
from osasis.errors import UserError
from osasis.settings import did_you_mean

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "style-factory"
# Registered models of other projects may live on the same server.
KIND_TAG = "style_factory.kind"
CHAMPION = "champion"
# Hash of the photos that a version's previews show.
PREVIEWS_TAG = "previews"


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

    @property
    def reference(self) -> str:
        return f"{self.style}:{self.version}"

    def folder(self) -> Path:
        """The style's folder; with local artifacts this is the stored one, not a copy."""
        return self._download(artifact_uri=self.source)

    def previews(self) -> list[Path]:
        """The preview images that were logged with it, in order."""
        try:
            folder = self._download(run_id=self.run_id, artifact_path="previews")
        except OSError:  # an imported style has none
            return []
        return sorted(folder.glob("*.png"))

    def _download(self, **where: str) -> Path:
        import mlflow

        with _quiet():
            path = mlflow.artifacts.download_artifacts(**where, tracking_uri=self.tracking_uri)
        return Path(path)


class Registry:
    """Registered styles of a home (sqlite and local artifacts) or of an MLflow server."""

    def __init__(self, home: Home) -> None:
        # MLflow reads these when imported; usage statistics would leave the machine.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        import mlflow

        home.path.mkdir(parents=True, exist_ok=True)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self.home = home
        with _quiet():
            # Not mlflow.set_tracking_uri: it holds for the whole process and its environment,
            # and the next home would be this one.
            self.client: MlflowClient = mlflow.MlflowClient(home.tracking_uri, home.tracking_uri)
            self.experiment = self._experiment()

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return found.experiment_id
        local = self.home.tracking_uri.startswith("sqlite:")
        location = self.home.artifacts.as_uri() if local else None
        return self.client.create_experiment(EXPERIMENT, artifact_location=location)

    def register(
        self,
        style: str,
        folder: Path,
        *,
        fingerprint: str,
        base: str,
        params: dict[str, Any],
        history: list[dict[str, float]],
        metrics: dict[str, float],
        tags: dict[str, str],
        previews: Path | None = None,
    ) -> StyleVersion:
        """Log a run with the style's folder and register it; the new version is champion."""
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        with _quiet():
            run = self.client.create_run(self.experiment, run_name=style)
            run_id = run.info.run_id
            curve = [
                Metric(name, value, now, step)
                for step, row in enumerate(history, start=1)
                for name, value in row.items()
            ]
            curve += [Metric(name, value, now, 0) for name, value in metrics.items()]
            for start in range(0, len(curve), 1000):  # a server takes 1000 metrics a request
                self.client.log_batch(run_id, metrics=curve[start : start + 1000])
            self.client.log_batch(
                run_id,
                params=[Param(k, str(v)) for k, v in params.items()],
                tags=[RunTag(k, v) for k, v in tags.items()],
            )
            self.client.log_artifacts(run_id, str(folder), "style")
            if previews is not None and previews.is_dir():
                self.client.log_artifacts(run_id, str(previews), "previews")
            self._ensure_model(style)
            version = self.client.create_model_version(
                style,
                source=f"{run.info.artifact_uri}/style",
                run_id=run_id,
                tags={"fingerprint": fingerprint, "base": base, **tags},
            )
            self.client.set_registered_model_alias(style, CHAMPION, version.version)
            self.client.set_terminated(run_id)
        return self.get(style, str(version.version))

    def _ensure_model(self, style: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(style, tags={KIND_TAG: "style"})
        except MlflowException as e:
            if e.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            if not _is_style(self.client.get_registered_model(style)):
                raise UserError(
                    f"style {style!r}: a registered model of another project has this name; "
                    "choose another id"
                ) from None

    def styles(self) -> list[str]:
        """Ids of all registered styles, sorted."""
        names: list[str] = []
        token = None
        while True:
            page = self.client.search_registered_models(
                filter_string=f"tags.`{KIND_TAG}` = 'style'", max_results=1000, page_token=token
            )
            # A run killed at the wrong moment leaves a name without a version.
            names += [m.name for m in page if m.latest_versions]
            token = page.token
            if not token:
                return sorted(names)

    def versions(self, style: str) -> list[StyleVersion]:
        """All versions of a style, newest first. Raises UserError where there is no such style."""
        found = self.client.search_model_versions(f"name = '{_quoted(style)}'", max_results=1000)
        if not found:
            raise self._unknown(style)
        model = self.client.get_registered_model(style)
        if not _is_style(model):
            raise self._unknown(style)
        aliases: dict[int, list[str]] = {}
        for alias, number in model.aliases.items():
            aliases.setdefault(int(number), []).append(alias)
        out = [_version(v, aliases.get(int(v.version), []), self.home.tracking_uri) for v in found]
        return sorted(out, key=lambda v: -v.version)

    def get(self, style: str, version: str = CHAMPION) -> StyleVersion:
        """A version by its number or alias. Raises UserError naming what there is."""
        versions = self.versions(style)
        for v in versions:
            if version == str(v.version) or version in v.aliases:
                return v
        known = ", ".join(
            f"{v.version}" + (f" ({', '.join(v.aliases)})" if v.aliases else "") for v in versions
        )
        raise UserError(f"style {style!r} has no version {version!r}: there are {known}")

    def current(self, style: str) -> StyleVersion:
        """The champion; the newest version where no version is champion."""
        versions = self.versions(style)
        return next((v for v in versions if CHAMPION in v.aliases), versions[0])

    def resolve(self, reference: str) -> StyleVersion:
        """``a``, ``a@alias`` or ``a:3`` to one version; plain ``a`` is its champion."""
        for mark in ("@", ":"):
            name, found, rest = reference.partition(mark)
            if found:
                return self.get(name, rest)
        return self.get(reference)

    def find(self, style: str, fingerprint: str) -> StyleVersion | None:
        """The version with this fingerprint, if it is registered."""
        try:
            versions = self.versions(style)
        except UserError:
            return None
        return next((v for v in versions if v.fingerprint == fingerprint), None)

    def _unknown(self, style: str) -> UserError:
        names = self.styles()
        if not names:
            return UserError(
                f"unknown style {style!r}: none is registered in {self.home.path} "
                "(train some with `style-factory train CATALOG`)"
            )
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        hint = did_you_mean(style, names) or f" (registered: {shown})"
        return UserError(f"unknown style {style!r}{hint}")


def _is_style(model: Any) -> bool:
    return bool(model.tags.get(KIND_TAG) == "style")


def _version(v: Any, aliases: list[str], tracking_uri: str) -> StyleVersion:
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
    )


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def _quiet() -> contextlib.AbstractContextManager[Any]:
    """MLflow prints progress bars and notices to standard output, which is ours for --json."""
    return contextlib.redirect_stdout(io.StringIO())

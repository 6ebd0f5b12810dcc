"""The registry: one registered model a style, a version a fingerprint (MLflow)."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from factory.home import Home
from osasis.errors import UserError
from osasis.settings import did_you_mean
from osasis.storage import sha256_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "style-factory"
# Registered models of other projects may live on the same server.
KIND_TAG = "style_factory.kind"
# On a registered model: the versions that were champion, in order, for a rollback.
CHAMPIONS_TAG = "style_factory.champions"
CHAMPION, CANDIDATE = "champion", "candidate"
# Hash of the photos that a version's previews show.
PREVIEWS_TAG = "previews"
# Why the quality gate kept a version from becoming champion.
GATE_TAG = "gate"
MODELS_A_PAGE, VERSIONS_A_PAGE = 1000, 10_000


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
        if (local := _local_path(self.source)) is not None:
            return local
        return self._fetched("style", artifact_uri=self.source)

    def previews(self) -> list[Path]:
        """The preview images that were logged with it, in order."""
        local = _local_path(self.source)
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
            with _quiet():
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
        # Several processes that make a new database at once would break its migration.
        lock = home.locked("registry") if self.local else contextlib.nullcontext()
        with lock, _quiet():
            # Not mlflow.set_tracking_uri: it holds for the whole process and its environment,
            # and the next home would be this one.
            self.client: MlflowClient = mlflow.MlflowClient(home.tracking_uri, home.tracking_uri)
            self.experiment = self.experiment_id(EXPERIMENT)

    @property
    def local(self) -> bool:
        """Whether the registry is a sqlite file rather than a server."""
        return self.home.tracking_uri.startswith("sqlite:")

    def experiment_id(self, name: str) -> str:
        """The experiment of a name, made where it is new; its artifacts lie below the home."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            # MLflow's own default is a folder of wherever the command was started.
            location = self.home.artifacts.as_uri() if self.local else None
            try:
                return self.client.create_experiment(name, artifact_location=location)
            except MlflowException as e:
                if e.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self.client.get_experiment_by_name(name)
                assert found is not None
        return found.experiment_id

    # Registering

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
        alias: str | None = CHAMPION,
    ) -> StyleVersion:
        """Log a run with the style's folder and register it; the new version gets the alias.

        A fingerprint that is registered already, by another job meanwhile, is returned as it is.
        The stored weights are read back and their hash compared before the version is made.
        Raises UserError where it differs, or where another project has the name.
        """
        from factory.pyfunc import write_mlmodel

        # Writers of one sqlite file wait for each other; on a server its database sees to that.
        lock = self.home.locked("registering") if self.local else contextlib.nullcontext()
        with lock, _quiet():
            if fingerprint and (found := self.find(style, fingerprint)) is not None:
                return found
            self._ensure_model(style)
            write_mlmodel(folder, self.home, style, base)
            run_id, source = self._log_run(style, folder, params, history, metrics, tags, previews)
            try:
                self._verify_stored(style, run_id, source, folder)
            except Exception:
                self.client.delete_run(run_id)
                raise
            made = self.client.create_model_version(
                style,
                source=source,
                run_id=run_id,
                tags={"fingerprint": fingerprint, "base": base, **tags},
            )
            number = int(made.version)
            if fingerprint and (first := self._registered_first(style, fingerprint, number)):
                self.client.delete_model_version(style, str(number))
                self.client.delete_run(run_id)
                return first
            if alias == CHAMPION:
                self._crown(style, number)
            elif alias is not None:
                self.client.set_registered_model_alias(style, alias, str(number))
            self.client.set_terminated(run_id)
            return self.get(style, str(number))

    def _log_run(
        self,
        style: str,
        folder: Path,
        params: dict[str, Any],
        history: list[dict[str, float]],
        metrics: dict[str, float],
        tags: dict[str, str],
        previews: Path | None,
    ) -> tuple[str, str]:
        """A run with curves, metrics, settings, bundle and previews. Returns (run, source)."""
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
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
        return run_id, f"{run.info.artifact_uri}/style"

    def _verify_stored(self, style: str, run_id: str, source: str, folder: Path) -> None:
        """Read the stored weights back. Raises UserError where they are not those of the folder."""
        info = json.loads((folder / "style.json").read_text())
        cache = self.home.cache
        stored = StyleVersion(
            style, 0, "", "", run_id, source, (), 0, {}, self.home.tracking_uri, cache
        ).folder()
        if sha256_file(stored / "style.safetensors") != info["weights_sha256"]:
            shutil.rmtree(cache / "artifacts" / run_id, ignore_errors=True)
            raise UserError(
                f"style {style!r}: the weights in the registry's store are not those that were "
                "sent (a broken disk or transfer?); run the same command again"
            )

    def _registered_first(self, style: str, fingerprint: str, number: int) -> StyleVersion | None:
        """A version of this fingerprint that another machine made just before ours."""
        same = [v for v in self.versions(style) if v.fingerprint == fingerprint]
        return min((v for v in same if v.version < number), key=lambda v: v.version, default=None)

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

    # Looking up

    def styles(self) -> list[str]:
        """Ids of all registered styles, sorted."""
        # A run killed at the wrong moment leaves a name without a version.
        return sorted(m.name for m in self._models() if m.latest_versions)

    def all_versions(self) -> dict[str, list[StyleVersion]]:
        """Every version of every style, newest first, by style in order; two queries a page,
        however many styles there are."""
        models = {m.name: m for m in self._models()}
        out: dict[str, list[StyleVersion]] = {}
        for v in self._pages("search_model_versions", VERSIONS_A_PAGE):
            if v.name in models:
                out.setdefault(v.name, []).append(self._version(v, models[v.name]))
        return {k: sorted(out[k], key=lambda v: -v.version) for k in sorted(out)}

    def _models(self) -> list[Any]:
        only_ours = f"tags.`{KIND_TAG}` = 'style'"
        return self._pages("search_registered_models", MODELS_A_PAGE, filter_string=only_ours)

    def _pages(self, method: str, size: int, **query: str) -> list[Any]:
        found: list[Any] = []
        token = None
        while True:
            page = getattr(self.client, method)(max_results=size, page_token=token, **query)
            found += page
            token = page.token
            if not token:
                return found

    def versions(self, style: str) -> list[StyleVersion]:
        """All versions of a style, newest first. Raises UserError where there is no such style."""
        ours = f"name = '{_quoted(style)}'"
        found = self._pages("search_model_versions", VERSIONS_A_PAGE, filter_string=ours)
        if not found:
            raise self._unknown(style)
        model = self.client.get_registered_model(style)
        if not _is_style(model):
            raise self._unknown(style)
        return sorted((self._version(v, model) for v in found), key=lambda v: -v.version)

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
        return current_of(self.versions(style))

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

    # Changing who is champion, and deleting

    def promote(self, reference: str) -> StyleVersion:
        """Make a version champion: ``a:3``, ``a@alias``, or plain ``a`` for its candidate."""
        plain = not any(mark in reference for mark in "@:")
        version = self.get(reference, CANDIDATE) if plain else self.resolve(reference)
        self._crown(version.style, version.version)
        if CANDIDATE in version.aliases:
            self.client.delete_registered_model_alias(version.style, CANDIDATE)
        return self.get(version.style, str(version.version))

    def rollback(self, style: str) -> StyleVersion:
        """Make the champion before the present one champion again.

        Raises UserError where there was none, or it is deleted.
        """
        there = {v.version for v in self.versions(style)}
        past = [n for n in self._champions(style) if n in there]
        if len(past) < 2:
            raise UserError(
                f"style {style!r} has had no champion before this one; choose a version with "
                f"`styles promote {style}:VERSION`"
            )
        self.client.set_registered_model_alias(style, CHAMPION, str(past[-2]))
        self.client.set_registered_model_tag(style, CHAMPIONS_TAG, json.dumps(past[:-1]))
        return self.get(style, str(past[-2]))

    def _crown(self, style: str, version: int) -> None:
        past = [n for n in self._champions(style) if n != version]
        self.client.set_registered_model_alias(style, CHAMPION, str(version))
        self.client.set_registered_model_tag(style, CHAMPIONS_TAG, json.dumps([*past, version]))

    def _champions(self, style: str) -> list[int]:
        model = self.client.get_registered_model(style)
        past = [int(n) for n in json.loads(model.tags.get(CHAMPIONS_TAG, "[]"))]
        now = model.aliases.get(CHAMPION)
        if now is not None and (not past or past[-1] != int(now)):
            past = [n for n in past if n != int(now)] + [int(now)]
        return past

    def delete(self, reference: str) -> list[StyleVersion]:
        """Delete one version (``a:3``, ``a@alias``) or a whole style (``a``), with its files.

        Raises UserError for a champion that other versions would stay behind.
        """
        whole = not any(mark in reference for mark in "@:")
        versions = self.versions(reference) if whole else [self.resolve(reference)]
        name = versions[0].style
        if not whole and CHAMPION in versions[0].aliases and len(self.versions(name)) > 1:
            raise UserError(
                f"{versions[0].reference} is the champion of {name!r}; promote another version "
                f"first, or delete the whole style with `styles delete {name}`"
            )
        whole = whole or len(self.versions(name)) == 1
        for version in versions:
            self.client.delete_model_version(name, str(version.version))
            if version.run_id:
                self.client.delete_run(version.run_id)
            if (local := _local_path(version.source)) is not None:
                shutil.rmtree(local.parent, ignore_errors=True)
            shutil.rmtree(self.home.cache / "artifacts" / version.run_id, ignore_errors=True)
        if whole:
            self.client.delete_registered_model(name)
        return versions

    def _version(self, v: Any, model: Any) -> StyleVersion:
        aliases = [a for a, number in model.aliases.items() if int(number) == int(v.version)]
        made = _version(v, aliases, self.home.tracking_uri)
        return replace(made, cache=self.home.cache)

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


def current_of(versions: Iterable[StyleVersion]) -> StyleVersion:
    """Of a style's versions, newest first: the champion, else the newest."""
    versions = list(versions)
    return next((v for v in versions if CHAMPION in v.aliases), versions[0])


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


def _local_path(source: str) -> Path | None:
    """The folder of an artifact on this machine; None where a server or another store has it."""
    parts = urlsplit(source)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") else None


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def _quiet() -> contextlib.AbstractContextManager[Any]:
    """MLflow prints progress bars and notices to standard output, which is ours for --json."""
    return contextlib.redirect_stdout(io.StringIO())

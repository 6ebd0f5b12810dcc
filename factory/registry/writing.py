"""Registering styles, choosing champions, deleting."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

from factory.registry.lookup import KIND_TAG, RegistryReader, is_style
from factory.registry.versions import CANDIDATE, CHAMPION, StyleVersion, local_path, quiet
from osasis.errors import UserError
from osasis.storage import sha256_file

# On a registered model: the versions that were champion, in order, for a rollback.
CHAMPIONS_TAG = "style_factory.champions"


class Registry(RegistryReader):
    """Registers, promotes and deletes styles, and finds them as ``RegistryReader`` does."""

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
        from factory.registry.pyfunc import write_mlmodel

        # Writers of one sqlite file wait for each other; on a server its database sees to that.
        lock = self.home.locked("registering") if self.local else contextlib.nullcontext()
        with lock, quiet():
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

        now = int(time.time() * 1000)
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
            if not is_style(self.client.get_registered_model(style)):
                raise UserError(
                    f"style {style!r}: a registered model of another project has this name; "
                    "choose another id"
                ) from None

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
            self._delete_files(version)
        if whole:
            self.client.delete_registered_model(name)
        return versions

    def _delete_files(self, version: StyleVersion) -> None:
        """The stored files and a copy of them; a store that deletes nothing keeps its own."""
        from mlflow.exceptions import MlflowException
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        shutil.rmtree(self.home.cache / "artifacts" / version.run_id, ignore_errors=True)
        if (local := local_path(version.source)) is not None:
            shutil.rmtree(local.parent, ignore_errors=True)
            return
        root = version.source.rpartition("/")[0]
        with contextlib.suppress(NotImplementedError, MlflowException, OSError), quiet():
            get_artifact_repository(root, self.home.tracking_uri).delete_artifacts()

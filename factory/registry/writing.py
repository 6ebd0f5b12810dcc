"""Registers styles, moves the champion alias, and deletes versions."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.core.uris import redact
from factory.registry.lookup import KIND_TAG, RegistryReader, is_style
from factory.registry.versions import (
    CANDIDATE,
    CHAMPION,
    EVALUATION_FILE,
    GATE_TAG,
    StyleVersion,
    bundle_folder,
    discard_stdout,
    local_path,
)
from osasis.errors import UserError
from osasis.storage import sha256_file, write_json

# Tag of a registered model: all champions in order, for rollback.
CHAMPIONS_TAG = "style_factory.champions"


@dataclass
class BegunRun:
    """An MLflow run of a style in training. steps: whose losses are logged. uri: of its
    artifacts."""

    run_id: str
    uri: str
    steps: set[int]


class Registry(RegistryReader):
    """A registry that can register, promote and delete styles."""

    def begin_run(self, style: str, params: dict[str, Any]) -> BegunRun:
        """Begin the run of a style's training."""
        from mlflow.entities import Param

        with discard_stdout():
            info = self.client.create_run(self.experiment, run_name=style).info
            run = BegunRun(info.run_id, info.artifact_uri, set())
            try:
                logged = [Param(name, str(value)) for name, value in params.items()]
                self.client.log_batch(run.run_id, params=logged)
            except Exception:
                self._discard_run(run)
                raise
        return run

    def continue_run(self, run_id: str) -> BegunRun | None:
        """The run of an interrupted training; None where it is deleted, complete, or of a home that
        was moved since."""
        from mlflow.exceptions import MlflowException

        try:
            info = self.client.get_run(run_id).info
            points = self.client.get_metric_history(run_id, "total")
        except MlflowException:
            return None
        ended = info.lifecycle_stage == "deleted" or info.status == "FINISHED"
        if ended or info.experiment_id != self.experiment:
            return None
        self.client.update_run(run_id, status="RUNNING")
        return BegunRun(run_id, info.artifact_uri, {point.step for point in points})

    def log_point(self, run: BegunRun, step: int, losses: dict[str, float]) -> None:
        """Log the losses of an iteration, from 1."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in losses.items()]
        self.client.log_batch(run.run_id, metrics=metrics)
        run.steps.add(step)

    def end_failed(self, run: BegunRun, reason: str) -> None:
        """End the run of a failed training; its tag ``failure`` has the reason."""
        self.client.set_tag(run.run_id, "failure", reason[:5000])
        self.client.set_terminated(run.run_id, "FAILED")

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
        run: BegunRun | None = None,
    ) -> StyleVersion:
        """Log an MLflow run with the bundle in ``folder``, and register a version with the alias.

        history: losses per iteration. run: begun with the training; None begins one. Tags without a
        value are left out. Returns the existing version where the fingerprint is
        registered already. Raises UserError where the stored weights, read back before the
        version is created, differ from the folder's, or where the name belongs to another project.
        """
        from factory.registry.mlmodel import write_mlmodel

        # Serialises writers of a sqlite registry; a server's database does so itself.
        lock = self.home.locked("registering") if self.local else contextlib.nullcontext()
        with lock, discard_stdout():
            if fingerprint and (found := self.find(style, fingerprint)) is not None:
                if run is not None:
                    self.client.delete_run(run.run_id)
                return found
            self._ensure_model(style)
            write_mlmodel(folder, self.home, style, base)
            tags = {name: value for name, value in tags.items() if value}
            if run is None:
                run = self.begin_run(style, params)
            self._complete_run(run, folder, history, metrics, tags, previews)
            run_id, source = run.run_id, f"{run.uri}/style"
            try:
                self._verify_stored(style, run_id, source, folder)
            except Exception:
                self.client.delete_run(run_id)
                raise
            created = self.client.create_model_version(
                style,
                source=source,
                run_id=run_id,
                tags={"fingerprint": fingerprint, "base": base, **tags},
                description=_described(style, tags, history),
            )
            number = int(created.version)
            if fingerprint and (earlier := self._earlier_duplicate(style, fingerprint, number)):
                self.client.delete_model_version(style, str(number))
                self.client.delete_run(run_id)
                return earlier
            if alias == CHAMPION:
                self._set_champion(style, number)
            elif alias is not None:
                self.client.set_registered_model_alias(style, alias, str(number))
            self.client.set_terminated(run_id)
            return self.get(style, str(number))

    def check_writable(self) -> None:
        """Log a run with a file, and delete it. Raises UserError where the server refuses one."""
        from mlflow.exceptions import MlflowException

        try:
            with discard_stdout():
                run = self.begin_run("doctor", {})
                try:
                    self.client.log_text(run.run_id, "writable", "doctor.txt")
                finally:
                    self._discard_run(run)
        except (MlflowException, OSError) as e:
            reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
            raise UserError(
                f"{redact(self.home.tracking_uri)} cannot be written ({redact(reason)}); check its "
                "artifact store and credentials"
            ) from None

    def _complete_run(
        self,
        run: BegunRun,
        folder: Path,
        history: list[dict[str, float]],
        metrics: dict[str, float],
        tags: dict[str, str],
        previews: Path | None,
    ) -> None:
        """Log what a run lacks of its history, metrics, tags, bundle and previews."""
        try:
            self._fill_run(run, folder, history, metrics, tags, previews)
        except Exception:
            self._discard_run(run)
            raise

    def _discard_run(self, run: BegunRun) -> None:
        """Delete an incomplete run; its files first, because the disk may be full."""
        if (local := local_path(run.uri)) is not None:
            shutil.rmtree(local.parent, ignore_errors=True)
        with contextlib.suppress(Exception):
            self.client.delete_run(run.run_id)

    def _fill_run(
        self,
        run: BegunRun,
        folder: Path,
        history: list[dict[str, float]],
        metrics: dict[str, float],
        tags: dict[str, str],
        previews: Path | None,
    ) -> None:
        from mlflow.entities import Metric, RunTag

        now = int(time.time() * 1000)
        logged = [
            Metric(name, value, now, step)
            for step, row in enumerate(history, start=1)
            if step not in run.steps
            for name, value in row.items()
        ]
        logged += [Metric(name, value, now, 0) for name, value in metrics.items()]
        self.client.log_batch(
            run.run_id, metrics=logged, tags=[RunTag(k, v) for k, v in tags.items()]
        )
        self.client.log_artifacts(run.run_id, str(folder), "style")
        if previews is not None and previews.is_dir():
            self.client.log_artifacts(run.run_id, str(previews), "previews")

    def _verify_stored(self, style: str, run_id: str, source: str, folder: Path) -> None:
        """Raise UserError where the stored weights differ from the folder's."""
        info = json.loads((folder / "style.json").read_text())
        cache = self.home.artifact_cache(run_id)
        stored = bundle_folder(source, self.home.tracking_uri, cache)
        if sha256_file(stored / "style.safetensors") != info["weights_sha256"]:
            shutil.rmtree(cache, ignore_errors=True)
            raise UserError(
                f"style {style!r}: the weights in the registry's store differ from those that were "
                "sent (a broken disk or transfer?); run the same command again"
            )

    def _earlier_duplicate(self, style: str, fingerprint: str, number: int) -> StyleVersion | None:
        """The first version of this fingerprint, where another machine registered it before."""
        same = [v for v in self.versions(style) if v.fingerprint == fingerprint]
        return min((v for v in same if v.version < number), key=lambda v: v.version, default=None)

    def _ensure_model(self, style: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(
                style, tags={KIND_TAG: "style"}, description=f"Style {style} of style-factory"
            )
        except MlflowException as e:
            if e.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            if not is_style(self.client.get_registered_model(style)):
                raise UserError(
                    f"style {style!r}: a registered model of another project has this name; "
                    "choose another id"
                ) from None

    def log_evaluation(
        self, version: StyleVersion, metrics: dict[str, float], document: dict[str, Any]
    ) -> None:
        """Log metrics and evaluation.json in a version's run; a later evaluation replaces them."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        logged = [Metric(name, value, now, 0) for name, value in metrics.items()]
        with discard_stdout():
            self.client.log_batch(version.run_id, metrics=logged)
            # MLflow would write to the path at which the home was when the run was made.
            if (local := local_path(version.source)) is not None:
                write_json(local.parent / EVALUATION_FILE, document)
            else:
                self.client.log_dict(version.run_id, document, EVALUATION_FILE)

    def apply_gate(self, version: StyleVersion, missed: Sequence[str]) -> None:
        """Store why a version misses a gate; a candidate that misses nothing becomes champion.

        A champion stays champion: ``rollback`` is the user's decision.
        """
        name, number = version.style, str(version.version)
        if missed:
            self.client.set_model_version_tag(name, number, GATE_TAG, "; ".join(missed))
            return
        if GATE_TAG in version.tags:
            self.client.delete_model_version_tag(name, number, GATE_TAG)
        if CANDIDATE in version.aliases and CHAMPION not in version.aliases:
            self.promote(version.reference)

    def promote(self, reference: str) -> StyleVersion:
        """Make the version ``a:3`` or ``a@alias``, or the candidate of ``a``, champion."""
        plain = not any(mark in reference for mark in "@:")
        version = self.get(reference, CANDIDATE) if plain else self.resolve(reference)
        self._set_champion(version.style, version.version)
        if CANDIDATE in version.aliases:
            self.client.delete_registered_model_alias(version.style, CANDIDATE)
        return self.get(version.style, str(version.version))

    def rollback(self, style: str) -> StyleVersion:
        """Make the previous champion champion again; skips deleted versions.

        Raises UserError where no previous champion exists.
        """
        existing = {v.version for v in self.versions(style)}
        champions = [n for n in self._champions(style) if n in existing]
        if len(champions) < 2:
            raise UserError(
                f"style {style!r} has no previous champion; choose a version with "
                f"`styles promote {style}:VERSION`"
            )
        self.client.set_registered_model_alias(style, CHAMPION, str(champions[-2]))
        self.client.set_registered_model_tag(style, CHAMPIONS_TAG, json.dumps(champions[:-1]))
        return self.get(style, str(champions[-2]))

    def _set_champion(self, style: str, version: int) -> None:
        earlier = [n for n in self._champions(style) if n != version]
        self.client.set_registered_model_alias(style, CHAMPION, str(version))
        self.client.set_registered_model_tag(style, CHAMPIONS_TAG, json.dumps([*earlier, version]))

    def _champions(self, style: str) -> list[int]:
        """All champions in order; the last one holds the alias."""
        model = self.client.get_registered_model(style)
        champions = [int(n) for n in json.loads(model.tags.get(CHAMPIONS_TAG, "[]"))]
        current = model.aliases.get(CHAMPION)
        if current is not None and (not champions or champions[-1] != int(current)):
            # Another program has moved the alias.
            champions = [n for n in champions if n != int(current)] + [int(current)]
        return champions

    def delete(self, reference: str) -> list[StyleVersion]:
        """Delete one version (``a:3``, ``a@alias``) or a whole style (``a``), with its files.

        Raises UserError for a champion while the style has other versions.
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
        """Delete stored and cached files; does nothing on stores that cannot delete."""
        from mlflow.exceptions import MlflowException
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        shutil.rmtree(version.cache, ignore_errors=True)
        if (local := local_path(version.source)) is not None:
            shutil.rmtree(local.parent, ignore_errors=True)
            return
        root = version.source.rpartition("/")[0]
        with (
            contextlib.suppress(NotImplementedError, MlflowException, OSError),
            discard_stdout(),
        ):
            get_artifact_repository(root, self.home.tracking_uri).delete_artifacts()


def _described(style: str, tags: dict[str, str], history: list[dict[str, float]]) -> str:
    """The description of a version in MLflow."""
    base = f" on base {tags['base_name']}" if "base_name" in tags else ""
    trained = f", {len(history)} iterations" if history else ""
    licence = f"; licence: {tags['licence']}" if "licence" in tags else ""
    return f"Style {style}{base}{trained}{licence}"

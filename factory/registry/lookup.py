"""Queries of an MLflow registry of styles."""

from __future__ import annotations

import contextlib
import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.environment import default_environment
from factory.core.home import Home
from factory.registry.reaching import opening
from factory.registry.resolving import Resolver
from factory.registry.versions import StyleVersion, discard_stdout, from_mlflow, local_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "style-factory"
# Tag that marks a registered model as a style; a server can hold models of other projects.
KIND_TAG = "style_factory.kind"
MODELS_PER_PAGE, VERSIONS_PER_PAGE = 1000, 10_000


@functools.cache
def load_mlflow() -> Any:
    """Import MLflow, which takes seconds, with telemetry and progress bars off."""
    # MLflow reads both variables on import. Cached, so that a thread's later call leaves the
    # environment alone while another thread starts Ray with its own variables.
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    with default_environment(settings):
        import mlflow

    return mlflow


class RegistryReader(Resolver):
    """The registered styles of a home (sqlite, local artifacts) or of an MLflow server.

    Creates the sqlite database and the experiment where they are missing.
    """

    def __init__(self, home: Home) -> None:
        mlflow = load_mlflow()
        home.path.mkdir(parents=True, exist_ok=True)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self.home = home
        # Concurrent migrations of a new sqlite database corrupt it.
        lock = home.locked("registry") if self.local else contextlib.nullcontext()
        with lock, discard_stdout(), opening(home):
            if home.tracking_uri == home.own_tracking_uri and not home.database.exists():
                _create_database(home.database)
            # mlflow.set_tracking_uri would apply to every home in this process.
            self.client: MlflowClient = mlflow.MlflowClient(home.tracking_uri, home.tracking_uri)
            self.experiment = self.experiment_id(EXPERIMENT)

    @property
    def local(self) -> bool:
        """Whether the registry is a sqlite file rather than a server."""
        return self.home.tracking_uri.startswith("sqlite:")

    def experiment_id(self, name: str) -> str:
        """Id of the experiment with this name, which is created where it is missing.

        MLflow writes the files of an experiment's runs to an absolute path. In a home that was
        moved or copied, the experiment of the former path is renamed, and runs go to another one.
        """
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        own = self.home.tracking_uri == self.home.own_tracking_uri
        if found is not None and own:
            former = local_path(found.artifact_location)
            if former is not None and former != self.home.artifacts:
                self.client.rename_experiment(found.experiment_id, _named_at(name, former))
                found = self.client.get_experiment_by_name(_named_at(name, self.home.artifacts))
                if found is not None:  # the home is back where it was
                    self.client.rename_experiment(found.experiment_id, name)
        if found is None:
            # MLflow's default location is below the current directory.
            location = self.home.artifacts.as_uri() if self.local else None
            try:
                return self.client.create_experiment(name, artifact_location=location)
            except MlflowException as e:
                if e.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self.client.get_experiment_by_name(name)
                assert found is not None
        return found.experiment_id

    def styles(self) -> list[str]:
        # A run killed during registration leaves a model without a version.
        return sorted(m.name for m in self.models() if m.latest_versions)

    def all_versions(self) -> dict[str, list[StyleVersion]]:
        """All versions by style, newest first; styles in alphabetical order.

        Sends two queries per page, independent of the number of styles.
        """
        models = {m.name: m for m in self.models()}
        out: dict[str, list[StyleVersion]] = {}
        for v in self._pages("search_model_versions", VERSIONS_PER_PAGE):
            if v.name in models:
                out.setdefault(v.name, []).append(from_mlflow(v, models[v.name], self.home))
        return {k: sorted(out[k], key=lambda v: -v.version) for k in sorted(out)}

    def models(self) -> list[Any]:
        """MLflow's registered models of all styles."""
        is_a_style = f"tags.`{KIND_TAG}` = 'style'"
        return self._pages("search_registered_models", MODELS_PER_PAGE, filter_string=is_a_style)

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
        quoted = style.replace("'", "''")
        by_name = f"name = '{quoted}'"
        found = self._pages("search_model_versions", VERSIONS_PER_PAGE, filter_string=by_name)
        if not found or not is_style(model := self.client.get_registered_model(style)):
            raise self.unknown_style(style)
        return sorted((from_mlflow(v, model, self.home) for v in found), key=lambda v: -v.version)


def list_versions(home: Home) -> dict[str, list[StyleVersion]]:
    """All versions by style, newest first; styles in alphabetical order.

    Returns {} for a home without a registry, without creating the registry.
    """
    if home.tracking_uri == home.own_tracking_uri and not home.database.is_file():
        return {}
    return RegistryReader(home).all_versions()


class RegistrySnapshot(Resolver):
    """All registered versions, read once; resolves references without further queries."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.all = list_versions(home)

    def styles(self) -> list[str]:
        return list(self.all)

    def versions(self, style: str) -> list[StyleVersion]:
        if style not in self.all:
            raise self.unknown_style(style)
        return self.all[style]


def _named_at(experiment: str, artifacts: Path) -> str:
    """The name of an experiment whose home was at another path."""
    return f"{experiment} at {artifacts}"


def _create_database(path: Path) -> None:
    """Create MLflow's tables in a new sqlite file, which gets its name when it is complete.

    MLflow cannot continue tables that a full disk or a kill has left half made.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        load_mlflow().MlflowClient(f"sqlite:///{part}", f"sqlite:///{part}")
        part.replace(path)
    finally:
        for left in path.parent.glob(f"{part.name}*"):
            left.unlink(missing_ok=True)


def is_style(model: Any) -> bool:
    """Whether MLflow's registered model is a style of this project."""
    return bool(model.tags.get(KIND_TAG) == "style")

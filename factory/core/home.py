"""The home: the folder that holds all state of an installation."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from diffstyler.bundle import shipped_bases as shipped_diffstyler_bases
from factory.core.disk import disk_named
from osasis.bundles.files import BASE_JSON, read_base_json, shipped_bases
from osasis.errors import UserError, did_you_mean

HOME_VARIABLE = "STYLE_FACTORY_HOME"
DEFAULT = Path(".style-factory")
# The numbers of an OSError by which a file system says that it has no file locks.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def _folder(location: str) -> Path:
    """The folder at a path or ``file://`` URI. Raises UserError for other URIs."""
    if "://" not in location:
        return Path(location)
    # Imports pyarrow; a home is a plain path nearly always.
    from factory.core.uris import is_local_uri, is_uri, local_path, redact

    if is_local_uri(location):
        return Path(local_path(location))
    if is_uri(location):
        raise UserError(
            f"home {redact(location)}: a home is a folder, because the registry's database and the "
            "checkpoints of trainings need a file system; give a folder that all nodes share with "
            f"--home or {HOME_VARIABLE}. Inputs and outputs of `stylize` may be in object stores, "
            "and styles on the MLflow server that MLFLOW_TRACKING_URI names"
        )
    return Path(location)


@dataclass(frozen=True)
class Home:
    """Paths below the home folder. own_registry: ignore MLFLOW_TRACKING_URI."""

    path: Path
    own_registry: bool = False

    @classmethod
    def find(cls, given: str | None = None) -> Home:
        """The home at ``given``, else at STYLE_FACTORY_HOME, else ./.style-factory.

        Raises UserError where the path is a file, and for a URI of an object store.
        """
        chosen = os.fspath(given or os.environ.get(HOME_VARIABLE) or DEFAULT)
        path = _folder(chosen).expanduser().resolve()
        if path.exists() and not path.is_dir():
            raise UserError(f"home {path} is a file; give a folder with --home")
        return cls(path)

    def experiment(self, path: Path) -> Home:
        """A home at ``path`` with its own registry, for styles that are not to enter this one.

        Bases, content banks and claims are this home's, through links.
        """
        path.mkdir(parents=True, exist_ok=True)
        for shared in (self.bases, self.banks, self.claims):
            shared.mkdir(parents=True, exist_ok=True)
            link = path / shared.name
            link.unlink(missing_ok=True)  # of a home that was moved
            link.symlink_to(shared.resolve())
        return Home(path, own_registry=True)

    @property
    def bases(self) -> Path:
        return self.path / "bases"

    @property
    def banks(self) -> Path:
        return self.path / "content-banks"

    @property
    def text_edits(self) -> Path:
        return self.path / "text-edits"

    @property
    def jobs(self) -> Path:
        return self.path / "jobs"

    @property
    def claims(self) -> Path:
        return self.path / "claims"

    @property
    def training(self) -> Path:
        """Checkpoints and unregistered bundles, in folders named ``ID-FINGERPRINT``."""
        return self.path / "styles-in-training"

    @property
    def requested_styles(self) -> Path:
        """Style images that visitors of the server asked to train, a catalog for `train`."""
        return self.path / "requested-styles"

    @property
    def cache(self) -> Path:
        """Downloads from a registry's server; the folder may be deleted at any time."""
        return self.path / "cache"

    def artifact_cache(self, run_id: str) -> Path:
        """Folder for downloaded artifacts of an MLflow run."""
        return self.cache / "artifacts" / run_id

    @property
    def database(self) -> Path:
        """The sqlite file of the home's own registry."""
        return self.path / "mlflow.db"

    @property
    def own_tracking_uri(self) -> str:
        """MLflow's URI of the home's own registry."""
        return f"sqlite:///{self.database}"

    @property
    def tracking_uri(self) -> str:
        """MLFLOW_TRACKING_URI where it is set and applies, else ``own_tracking_uri``."""
        given = "" if self.own_registry else os.environ.get("MLFLOW_TRACKING_URI", "").strip()
        return given or self.own_tracking_uri

    @property
    def artifacts(self) -> Path:
        return self.path / "artifacts"

    @contextlib.contextmanager
    def locked(self, what: str) -> Iterator[None]:
        """Hold the home's file lock of this name; waits for a process that holds the lock.

        The operating system frees the lock when the process ends, also when it is killed. Raises
        UserError where the file system has no locks.
        """
        with disk_named(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / f".{what}.lock")
        try:
            lock.acquire()
        except OSError as e:
            if e.errno not in NO_LOCKS:
                raise
            raise UserError(
                f"the home {self.path} lies on a file system without locks ({e.strerror}), which "
                "its registry needs; choose a home on another one with --home, or set "
                "MLFLOW_TRACKING_URI to an MLflow server"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def base_folders(self) -> dict[str, Path]:
        """Folders of all usable bases by name: the home's own, then those of the package."""
        own = {p.parent.name: p.parent for p in self.bases.glob(f"*/{BASE_JSON}")}
        shipped = shipped_bases() | shipped_diffstyler_bases()
        return dict(sorted(own.items())) | {n: f for n, f in shipped.items() if n not in own}

    def base_names(self) -> list[str]:
        return list(self.base_folders())

    def base_folder(self, name: str | None) -> Path:
        """The folder of the base with this name.

        None selects the home's only base, or the package's base of OSASIS where the home has none.
        Raises UserError where no base has the name, or where None is ambiguous.
        """
        folders = self.base_folders()
        own = [n for n, folder in folders.items() if folder.parent == self.bases]
        choice = own or list(shipped_bases())
        if not choice:
            raise UserError(f"no base in {self.bases}: make one with `style-factory base import`")
        if name is None:
            if len(choice) > 1:
                raise UserError(f"several bases: choose one with --base ({', '.join(choice)})")
            name = choice[0]
        if name not in folders:
            raise UserError(
                f"unknown base {name!r}: there are {', '.join(folders)}"
                + did_you_mean(name, folders)
            )
        return folders[name]

    def base_with(self, fingerprint: str) -> Path | None:
        """The folder of the base with this fingerprint; None where no base has it."""
        for folder in self.base_folders().values():
            if read_base_json(folder)["fingerprint"] == fingerprint:
                return folder
        return None

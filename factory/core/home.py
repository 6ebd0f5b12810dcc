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


def _working_folder(uri: str) -> Path:
    """Where this machine keeps the files of a home in an object store."""
    from factory.core.fsspec_systems import local_key
    from factory.core.local_cache import cache_folder

    return cache_folder() / "homes" / local_key(uri)


@dataclass(frozen=True)
class Home:
    """Paths below the home folder. own_registry: ignore MLFLOW_TRACKING_URI.

    uri: of a home in an object store; None for a folder. ``path`` is then a folder of this machine
    for its own files, and ``shared`` says where the files are that all machines share.
    """

    path: Path
    own_registry: bool = False
    uri: str | None = None

    @classmethod
    def find(cls, given: str | None = None) -> Home:
        """The home at ``given``, else at STYLE_FACTORY_HOME, else ./.style-factory.

        Raises UserError where the path is a file, for a URI that cannot be written to, and for a
        home in an object store without an MLflow server.
        """
        chosen = os.fspath(given or os.environ.get(HOME_VARIABLE) or DEFAULT)
        if "://" in chosen:
            return cls._at_uri(chosen)
        path = Path(chosen).expanduser().resolve()
        if path.exists() and not path.is_dir():
            raise UserError(f"home {path} is a file; give a folder with --home")
        return cls(path)

    @classmethod
    def _at_uri(cls, location: str) -> Home:
        # Imports pyarrow; a home is a plain path nearly always.
        from factory.core.stores import local_folder, open_store

        store = open_store(location)
        if (folder := local_folder(store)) is not None:
            return cls.find(str(folder))
        if not os.environ.get("MLFLOW_TRACKING_URI", "").strip():
            raise UserError(
                f"home {store.location} is in an object store, where a registry's database cannot "
                "be; set MLFLOW_TRACKING_URI to an MLflow server, or give a folder with --home"
            )
        return cls(_working_folder(store.location), uri=store.location)

    @property
    def location(self) -> str:
        """The path or URI, for messages."""
        return self.uri or str(self.path)

    def shared(self, path: Path) -> str:
        """The path or URI, for other machines, of something below the home. See ``open_store``."""
        if self.uri is None:
            return str(path)
        return f"{self.uri}/{path.relative_to(self.path).as_posix()}"

    def refuse_store(self, what: str) -> None:
        """Raise UserError for a home in an object store. what: needs a folder."""
        if self.uri is not None:
            raise UserError(
                f"{what} needs a home in a folder, and {self.uri} is in an object store; give a "
                "folder with --home"
            )

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
        return _with_shipped(self._own_bases())

    def _own_bases(self) -> dict[str, Path]:
        """Folders of the home's own bases by name; of a home in an object store, local copies."""
        if self.uri is None:
            own = {p.parent.name: p.parent for p in self.bases.glob(f"*/{BASE_JSON}")}
            return dict(sorted(own.items()))
        from factory.core.local_copy import local_copy
        from factory.core.stores import open_store

        place = self.shared(self.bases)
        found = [n for n in open_store(place).list() if n.endswith(f"/{BASE_JSON}")]
        names = sorted(n.removesuffix(f"/{BASE_JSON}") for n in found if n.count("/") == 1)
        return {name: local_copy(f"{place}/{name}", BASE_JSON) for name in names}

    def base_names(self) -> list[str]:
        return list(self.base_folders())

    def base_folder(self, name: str | None) -> Path:
        """The folder of the base with this name.

        None selects the home's only base, or the package's base of OSASIS where the home has none.
        Raises UserError where no base has the name, or where None is ambiguous.
        """
        own = self._own_bases()
        folders, choice = _with_shipped(own), list(own or shipped_bases())
        if not choice:
            raise UserError(
                f"no base in {self.shared(self.bases)}: make one with `style-factory base import`"
            )
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

    def base_location(self, folder: Path) -> str:
        """The path or URI, for other machines, of the base in a folder of ``base_folders``."""
        if self.uri is None or folder not in self._own_bases().values():
            return str(folder)
        return self.shared(self.bases / folder.name)

    def base_with(self, fingerprint: str) -> Path | None:
        """The folder of the base with this fingerprint; None where no base has it."""
        for folder in self.base_folders().values():
            if read_base_json(folder)["fingerprint"] == fingerprint:
                return folder
        return None


def _with_shipped(own: dict[str, Path]) -> dict[str, Path]:
    """The home's own bases, and those of the package whose names are free."""
    shipped = shipped_bases() | shipped_diffstyler_bases()
    return own | {name: folder for name, folder in shipped.items() if name not in own}


def local_base(location: str | os.PathLike[str]) -> Path:
    """The folder on this machine of a base, by ``Home.base_location``."""
    if "://" not in os.fspath(location):
        return Path(location)
    from factory.core.local_copy import local_copy

    return local_copy(location, BASE_JSON)

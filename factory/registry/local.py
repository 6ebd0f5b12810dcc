"""Listing a home's own registry as it lies in sqlite, without MLflow.

MLflow takes seconds to be imported and a millisecond a version to be asked. The tables are read
directly only where the database has the one revision whose tables are known here; any other, and
a server, MLflow is asked.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from contextlib import closing
from types import SimpleNamespace

from factory.core.home import Home
from factory.registry.lookup import KIND_TAG
from factory.registry.resolving import Resolver
from factory.registry.versions import StyleVersion, version_of
from factory.registry.writing import Registry

# Of MLflow's migrations: that of the version in constraints.txt.
REVISION = "dc11669786a5"
# What MLflow leaves of a version that was deleted.
DELETED = "Deleted_Internal"
WORKSPACE = "default"


def list_versions(home: Home) -> dict[str, list[StyleVersion]]:
    """``Registry.all_versions`` of a home, as fast as it can be had."""
    found = read_local(home)
    return Registry(home).all_versions() if found is None else found


class Listing(Resolver):
    """A registry as it was at one moment, found without MLflow where that can be."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.all = list_versions(home)

    def styles(self) -> list[str]:
        return list(self.all)

    def versions(self, style: str) -> list[StyleVersion]:
        if style not in self.all:
            raise self.unknown(style)
        return self.all[style]


def read_local(home: Home) -> dict[str, list[StyleVersion]] | None:
    """Every version of every style, newest first, by style in order; None where MLflow must be
    asked."""
    path = home.path / "mlflow.db"
    if home.tracking_uri != f"sqlite:///{path}":
        return None
    if not path.is_file():
        return {}
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            # One moment's state for all questions.
            db.execute("BEGIN")
            if db.execute("SELECT version_num FROM alembic_version").fetchall() != [(REVISION,)]:
                return None
            return _read(db, home)
    except sqlite3.Error:
        return None


def _read(db: sqlite3.Connection, home: Home) -> dict[str, list[StyleVersion]]:
    ours = {
        name
        for (name,) in db.execute(
            "SELECT name FROM registered_model_tags WHERE workspace = ? AND key = ? AND value = ?",
            (WORKSPACE, KIND_TAG, "style"),
        )
    }
    aliases: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name, version, alias in db.execute(
        "SELECT name, version, alias FROM registered_model_aliases WHERE workspace = ?",
        (WORKSPACE,),
    ):
        aliases[name, version].append(alias)
    tags: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    for name, version, key, value in db.execute(
        "SELECT name, version, key, value FROM model_version_tags WHERE workspace = ?",
        (WORKSPACE,),
    ):
        tags[name, version][key] = value
    out: dict[str, list[StyleVersion]] = {}
    for name, version, run_id, source, created in db.execute(
        "SELECT name, version, run_id, source, creation_time FROM model_versions"
        " WHERE workspace = ? AND current_stage != ? ORDER BY name, version DESC",
        (WORKSPACE, DELETED),
    ):
        if name in ours:
            found = SimpleNamespace(
                name=name, version=version, run_id=run_id, source=source,
                creation_timestamp=created, tags=tags[name, version],
            )  # fmt: skip
            made = version_of(found, aliases[name, version], home.tracking_uri, home.cache)
            out.setdefault(name, []).append(made)
    return out

"""A home in each kind of object store: training, registering, stylizing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from factory.core.local_cache import CACHE_VARIABLE
from factory.core.stores import open_store
from tests.conftest import ROOT
from tests.factory.conftest import import_tiny, sets
from tests.services import mlflow_server
from tests.store_servers import store_server
from tests.tiny import picture


def run(*arguments: str | Path) -> dict[str, Any]:
    """A command in a process of its own; returns its JSON document."""
    ran = subprocess.run(
        [sys.executable, "-m", "factory.cli", *map(str, arguments), "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    document: dict[str, Any] = json.loads(ran.stdout)
    return document


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["gs", "abfs"])
def test_a_style_is_trained_and_used(
    scheme: str, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, photos = tmp_path / "catalog", tmp_path / "photos"
    for folder in (catalog, photos):
        folder.mkdir()
    picture(100).save(catalog / "oil.png")
    for i in range(4):
        picture(i, (48, 40)).save(photos / f"{i}.png")
    with store_server(scheme) as bucket, mlflow_server(tmp_path / "mlflow") as address:
        place = f"{bucket}/{tmp_path.name}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
        monkeypatch.setenv("STYLE_FACTORY_HOME", f"{place}/home")
        assert import_tiny(f"{place}/home", sources).code == 0  # type: ignore[arg-type]
        trained = run("train", catalog, "--preset", "default", *sets(iterations=2))
        assert [(s["id"], s["state"]) for s in trained["styles"]] == [("oil", "registered")]
        assert trained["gallery"].startswith(f"{place}/home/jobs/")
        made = run("stylize", "--styles", "oil", "--input", photos, "--output", f"{place}/out")
        assert (made["images"], made["errors"]) == (4, [])
        names = [n for n in open_store(f"{place}/out").list() if n.endswith(".png")]
        assert names == [f"oil/{i}.png" for i in range(4)]
        home = open_store(f"{place}/home").list()
        assert not [n for n in home if n.startswith(("claims/", "styles-in-training/"))]

"""Homes that are copied, moved and restored: MLflow stores absolute paths."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image

from factory.core.home import HOME_VARIABLE, Home
from factory.registry import EXPERIMENT, Registry, StyleVersion, list_versions
from factory.registry.versions import EVALUATION_FILE
from tests.factory.conftest import register_random_style
from tests.tiny import picture


def register(home: Path, style: str, seed: int, folder: Path) -> StyleVersion:
    return register_random_style(Home(home), style, seed, folder, tags={})


@pytest.fixture
def original(fresh_home: Callable[[], Path], tmp_path: Path) -> Path:
    """A home with style oil."""
    home = fresh_home()
    register(home, "oil", 1, tmp_path / "oil")
    return home


def files(home: Path) -> set[str]:
    return {p.relative_to(home).as_posix() for p in (home / "artifacts").rglob("*") if p.is_file()}


def test_a_copied_home_keeps_to_its_own_files(original: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(original, copy)
    before = files(original)
    version = register(copy, "ink", 2, tmp_path / "ink")
    assert version.folder().is_relative_to(copy / "artifacts")
    oil = Registry(Home(copy)).get("oil")
    assert oil.folder().is_relative_to(copy) and (oil.folder() / "style.safetensors").is_file()
    Registry(Home(copy)).log_evaluation(oil, {"eval_lpips": 0.5}, {"own": "oil"})
    assert (oil.folder().parent / EVALUATION_FILE).is_file()
    Registry(Home(copy)).delete("oil")
    assert not oil.folder().exists()
    assert files(original) == before
    assert list(list_versions(Home(original))) == ["oil"]


def test_a_home_is_moved_there_and_back(original: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.move(original, moved)
    ink = register(moved, "ink", 2, tmp_path / "ink")
    assert ink.folder().is_relative_to(moved)
    shutil.move(moved, original)
    sepia = register(original, "sepia", 3, tmp_path / "sepia")
    registry = Registry(Home(original))
    for name in ("oil", "ink", "sepia"):
        folder = registry.get(name).folder()
        assert folder.is_relative_to(original) and (folder / "style.json").is_file(), name
    assert sepia.folder().is_relative_to(original)
    experiments = sorted(e.name for e in registry.client.search_experiments())
    # One experiment for each path, and MLflow's own.
    assert experiments == ["Default", EXPERIMENT, f"{EXPERIMENT} at {moved / 'artifacts'}"]


def test_a_model_of_a_moved_home_is_loaded_by_its_folder(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(HOME_VARIABLE, raising=False)
    moved = tmp_path / "moved"
    shutil.move(original, moved)
    folder = Registry(Home(moved)).get("oil").folder()
    model = mlflow.pyfunc.load_model(str(folder))
    image = picture(4)
    (styled,) = model.predict([image])
    assert isinstance(styled, Image.Image)
    assert np.abs(np.asarray(styled, int) - np.asarray(image.resize(styled.size), int)).mean() > 1

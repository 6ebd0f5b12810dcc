"""Fixtures of the command line: homes in which runs have trained styles, or with random ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from factory.core.home import Home
from factory.registry import Registry
from tests.factory.conftest import Ran, cli, register_random_style, sets


@pytest.fixture(scope="session")
def shared_home(fresh_home: Callable[[], Path], local_ray: None) -> Path:
    """The home of all runs."""
    return fresh_home()


def train(home: Path, catalog: Path, slots: int = 1) -> Ran:
    return cli(
        *("train", catalog, "--home", home, "--preset", "default", *sets()),
        *("--slots", str(slots), "--json"),
    )


@pytest.fixture(scope="session")
def first_run(shared_home: Path, style_folder: Path) -> Ran:
    """Three styles, one of them on a truncated image."""
    return train(shared_home, style_folder, slots=2)


@pytest.fixture(scope="session")
def rerun(shared_home: Path, style_folder: Path, first_run: Ran) -> Ran:
    """The same images again, unchanged."""
    assert first_run.code == 1
    good = shared_home / "good"
    good.mkdir()
    for name in ("oil.png", "ink.png"):
        shutil.copy(style_folder / name, good / name)
    return train(shared_home, good)


@pytest.fixture(scope="session")
def changed_run(shared_home: Path, style_folder: Path, rerun: Ran) -> Ran:
    """`ink` unchanged, `oil` with a changed setting, a style that diverges, and a style whose name
    belongs to another project in the registry."""
    assert rerun.code == 0
    Registry(Home(shared_home)).client.create_registered_model("churn")
    catalog = shared_home / "catalog.yaml"
    catalog.write_text(
        f"""styles:
  - id: churn
    image: {style_folder / "ink.png"}
    overrides: {{seed: 5}}
  - image: {style_folder / "ink.png"}
  - image: {style_folder / "oil.png"}
    overrides: {{iterations: 3}}
    tags: [oil, portrait]
    licence: CC0
  - id: wild
    image: {style_folder / "oil.png"}
    overrides: {{iterations: 9, lr_unet: 1.0, adam_beta2: 0.0}}
"""
    )
    return train(shared_home, catalog)


@pytest.fixture(scope="session")
def trained_home(shared_home: Path, changed_run: Ran) -> Path:
    """The home after all three runs: oil:1, oil:2 and ink:1."""
    assert changed_run.code == 1
    return shared_home


@pytest.fixture(scope="session")
def gallery_home(fresh_home: Callable[[], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with styles of random weights, oil:1 and ink:1, which takes no training."""
    path = fresh_home()
    for seed, style in enumerate(("oil", "ink"), start=21):
        folder = tmp_path_factory.mktemp(style)
        register_random_style(Home(path), style, seed, folder, tags={"base_name": "tiny"})
    return path


def assert_problems(ran: Ran, fields: list[str]) -> None:
    """The command reports one problem per field, and prints one line per problem."""
    assert ran.code == 2
    assert sorted(p["field"] for p in ran.document["problems"]) == sorted(fields)
    lines = ran.err.splitlines()
    assert len(lines) == len(fields)
    assert all(line.startswith("error: ") for line in lines)

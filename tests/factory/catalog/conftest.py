"""Catalogs of small images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from factory.catalog import CatalogEntry, CatalogError, load_catalog
from tests.tiny import picture


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., Path]:
    """Creates a folder of different images with the given names."""

    def make(*names: str) -> Path:
        for i, name in enumerate(names):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            picture(i, (16, 16)).save(tmp_path / name)
        return tmp_path

    return make


def load(path: Path, **overrides: object) -> tuple[CatalogEntry, ...]:
    return load_catalog(path, "default", overrides).entries


def problems(path: Path, **overrides: object) -> list[str]:
    """The problem lines of an invalid catalog, without the file's name."""
    with pytest.raises(CatalogError) as refused:
        load(path, **overrides)
    head, *lines = str(refused.value).splitlines()
    assert head == f"{path}: {len(lines)} problem(s)"
    return [line.strip().removeprefix(f"{path}").removeprefix(":") for line in lines]

"""Fixtures: a home with two styles, photos, and readers of a job's outputs and records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from factory.core.home import Home
from factory.core.stores import open_store
from pipelines.job_identity import FOLDER, read_job
from pipelines.job_log import LOG, RECORDS, JobLog
from tests.factory.conftest import (
    fresh_home,
    home,
    imported,
    local_ray,
    register_random_style,
    sources,
)
from tests.tiny import picture

__all__ = ["fresh_home", "home", "imported", "local_ray", "sources"]

PHOTOS = ("0.png", "1.png", "2.jpg", "3.png", "4.png", "a.jpg", "a.png", "sub/a.png", "sub/B.JPG")
OUTPUTS = {f"{n}.png" for n in ("0", "1", "2", "3", "4", "a.jpg", "a.png", "sub/a", "sub/B")}


def register(home: Home, style: str, base: str = "tiny", seed: int = 1) -> None:
    folder = home.path / "made" / style
    register_random_style(home, style, seed, folder, base, tags={"base_name": base})


def images(output: Path | str) -> list[str]:
    """The names of all images of an output."""
    return [n for n in open_store(output).list() if n.endswith((".png", ".jpg", ".webp"))]


def written(output: Path | str) -> dict[str, bytes]:
    """All images of an output, by relative path."""
    return {name: open_store(output).read(name) for name in images(output)}


def state_of(output: Path | str) -> str:
    """The folder of a job's state in OUTPUT/.job."""
    job = read_job(open_store(output).within(FOLDER))
    assert job is not None
    return job.state


def times_done(output: Path | str) -> Counter[tuple[int, int]]:
    """How often each output was recorded as done, over all runs of a job."""
    store = open_store(output).within(FOLDER)
    records = {}
    for line in JobLog(store.within(state_of(output))).lines(LOG, RECORDS):
        if line.get("status") == "done":
            # A killed driver may have gathered a batch's file without deleting it.
            records[line["batch"], line["photo"], line["target"]] = line
    return Counter((photo, target) for _, photo, target in records)


@pytest.fixture(scope="session")
def gallery(fresh_home: Callable[[], Path]) -> Home:
    """A home with two styles; tests must not write to it."""
    home = Home(fresh_home())
    register(home, "oil", seed=1)
    register(home, "ink", seed=5)
    return home


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine photos in landscape and portrait format."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "sub").mkdir()
    for i, name in enumerate(PHOTOS):
        picture(400 + i, (40 + i, 44)).save(folder / name)
    return folder

"""Recorded runs of the published code (--reference-dir), and a tiny base with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from diffstyler.base import Base

HERE = Path(__file__).parent
REFERENCE = HERE / "reference"
SHARED = HERE.parents[2] / "shared" / "reference" / "diffstyler"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "run_json" not in metafunc.fixturenames:
        return
    given: Path | None = metafunc.config.getoption("--reference-dir")
    folders = [REFERENCE, SHARED] if given is None else [given]
    found = {p.name: p for folder in folders for p in sorted(folder.glob("*.json"))}
    complete = [p for p in found.values() if p.with_suffix(".golden.safetensors").exists()]
    skip = pytest.mark.skip(reason=f"no recorded run in {folders[-1]}")
    params = [pytest.param(p, id=p.stem) for p in complete] or [
        pytest.param(None, marks=skip, id="absent")
    ]
    metafunc.parametrize("run_json", params, scope="session")


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny pipeline."""
    from tests.diffstyler.tiny_sd import write_pipeline

    return write_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="session")
def base(pipeline: Path) -> Base:
    from diffstyler.base import load_base

    return load_base(pipeline)

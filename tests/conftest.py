"""Options and fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference-dir",
        default=str(SHARED / "reference"),
        help="folder of recorded runs: NAME.json with NAME.weights/spn/golden.safetensors",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = Path(metafunc.config.getoption("--reference-dir"))
    runs = sorted(
        p
        for p in folder.glob("*.json")
        if p.with_name(p.name.removesuffix(".json") + ".golden.safetensors").exists()
    )
    for fixture, is_prior in (("diffae_run", False), ("prior_run", True)):
        if fixture in metafunc.fixturenames:
            mine = [p for p in runs if p.name.startswith("ddpm") == is_prior]
            why = pytest.mark.skip(reason=f"no recorded run in {folder}")
            params = [pytest.param(p, id=p.stem) for p in mine] or [
                pytest.param(None, marks=why, id="absent")
            ]
            metafunc.parametrize(fixture, params)


def alive(pid: int) -> bool:
    """Whether a process is there and no mere entry that its parent has not read yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

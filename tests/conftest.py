"""Options and fixtures of all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
REFERENCE = Path(__file__).parent / "reference"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference-dir",
        type=Path,
        help="folder of recorded runs: NAME.json with NAME.weights/spn/golden.safetensors "
        "(default: tests/reference, and ../shared/reference where it exists)",
    )


def reference_folders(config: pytest.Config) -> list[Path]:
    """Folders with recorded numbers of the published implementation."""
    given: Path | None = config.getoption("--reference-dir")
    return [REFERENCE, SHARED / "reference"] if given is None else [given]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folders = reference_folders(metafunc.config)
    # A run that is in two folders is tested once.
    runs = {p.name: p for folder in reversed(folders) for p in sorted(folder.glob("*.json"))}
    complete = [p for p in runs.values() if p.with_suffix(".golden.safetensors").exists()]
    for fixture, is_prior in (("diffae_run", False), ("prior_run", True)):
        if fixture in metafunc.fixturenames:
            found = sorted(p for p in complete if p.name.startswith("ddpm") == is_prior)
            skip = pytest.mark.skip(reason=f"no recorded run in {folders[-1]}")
            params = [pytest.param(p, id=p.stem) for p in found] or [
                pytest.param(None, marks=skip, id="absent")
            ]
            metafunc.parametrize(fixture, params)


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

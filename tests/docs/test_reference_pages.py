"""The generated reference pages match the code."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT

REFERENCE = ROOT / "docs" / "reference"


def generator() -> ModuleType:
    path = ROOT / "docs" / "generate_reference.py"
    spec = importlib.util.spec_from_file_location("generate_reference", path)
    assert spec is not None and spec.loader is not None
    # The script imports its sibling reference_tables.
    sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES: dict[str, str] = generator().render()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_page_is_up_to_date(name: str) -> None:
    text = Path(REFERENCE / name).read_text(encoding="utf-8")
    assert text == PAGES[name], "run: python docs/generate_reference.py"


def test_every_row_has_a_description() -> None:
    for name, page in PAGES.items():
        rows = [line for line in page.splitlines() if line.startswith("| `")]
        assert rows, name
        assert not [r for r in rows if r.rstrip(" |").endswith("| `") or r.endswith("|  |")], name

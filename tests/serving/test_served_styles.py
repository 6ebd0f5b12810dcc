"""The styles that are served, as they change in the registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from factory.core.home import Home
from factory.registry import Registry
from osasis.bundles.base import read_base_info
from serving import served_styles
from serving.served_styles import StyleCatalog
from tests.serving.conftest import STYLES


def base_of(home: Path) -> str:
    fingerprint: str = read_base_info(home / "bases" / "tiny")["fingerprint"]
    return fingerprint


def test_many_styles_are_looked_up_together(
    shop_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_by_one = StyleCatalog(Home(shop_home), base_of(shop_home))
    assert one_by_one.poll() and set(STYLES) <= set(one_by_one.styles)
    monkeypatch.setattr(served_styles, "FEW", 1)
    monkeypatch.setattr(Registry, "get", lambda *_: pytest.fail("asked for one style"))
    together = StyleCatalog(Home(shop_home), base_of(shop_home))
    assert together.poll() and together.error is None
    assert together.styles == one_by_one.styles
    # Nothing has changed: nothing is asked for.
    monkeypatch.setattr(served_styles, "list_versions", lambda *_: pytest.fail("asked again"))
    assert not together.poll() and together.styles == one_by_one.styles


def test_styles_of_another_base_are_listed_with_the_reason(shop_home: Path) -> None:
    other = StyleCatalog(Home(shop_home), "another")
    other.poll()
    assert all("belongs to another base" in (s.problem or "") for s in other.styles.values())
    assert other.styles

"""The served styles follow the registry."""

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


def test_many_styles_are_read_with_one_query(
    shop_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = StyleCatalog(Home(shop_home), base_of(shop_home))
    assert single.poll() and set(STYLES) <= set(single.styles)
    monkeypatch.setattr(served_styles, "MAX_SINGLE_QUERIES", 1)
    monkeypatch.setattr(Registry, "get", lambda *_: pytest.fail("queried a single style"))
    bulk = StyleCatalog(Home(shop_home), base_of(shop_home))
    assert bulk.poll() and bulk.error is None
    assert bulk.styles == single.styles
    # Unchanged styles are not read again.
    monkeypatch.setattr(served_styles, "list_versions", lambda *_: pytest.fail("read again"))
    assert not bulk.poll() and bulk.styles == single.styles


def test_styles_of_another_base_are_listed_with_the_reason(shop_home: Path) -> None:
    other = StyleCatalog(Home(shop_home), "another")
    other.poll()
    assert all("belongs to another base" in (s.problem or "") for s in other.styles.values())
    assert other.styles

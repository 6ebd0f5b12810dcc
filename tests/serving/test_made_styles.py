"""Styles made from an image where the home is in an object store."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from factory.core.home import Home
from factory.core.local_cache import CACHE_VARIABLE
from factory.core.stores import open_store
from osasis.bundles.files import STYLE_JSON
from osasis.storage import write_json
from serving.made_styles import MadeStyles
from tests.store_servers import store_server

NAME = "image-0123456789abcdef"


def test_machines_of_a_store_share_made_styles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    write_json(bundle / STYLE_JSON, {"base": "b", "fingerprint": "f"})
    (bundle / "style.safetensors").write_bytes(b"weights")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with store_server("s3") as bucket:
        place = f"{bucket}/{tmp_path.name}"

        def machine(name: str) -> MadeStyles:
            monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / name))
            return MadeStyles(Home.find(place), "b", age=2.0)

        first, second, third = machine("one"), machine("two"), machine("three")
        assert second.find(NAME) is None
        first.add(bundle, NAME)
        first.add(bundle, NAME)  # another engine made it meanwhile
        found = second.find(NAME)
        assert found is not None and found.fingerprint == "f"
        assert found.folder().is_relative_to(tmp_path / "two")
        assert {p.name: p.read_bytes() for p in found.folder().iterdir()} == {
            p.name: p.read_bytes() for p in bundle.iterdir()
        }
        # Its last use on any machine counts; the store's clock has whole seconds.
        store = open_store(f"{place}/cache/styles-from-images")
        written = store.changed(f"{NAME}/used")
        assert written is not None
        first.delete_old()
        assert store.list() != []
        time.sleep(4.1)
        first.delete_old()
        assert store.list() == [] and third.find(NAME) is None and first.find(NAME) is None

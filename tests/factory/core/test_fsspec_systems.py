"""File systems of object stores by the packages of fsspec."""

from __future__ import annotations

import pytest

from factory.core.fsspec_systems import can_open, local_key, open_bucket
from factory.core.uris import redact


def test_only_stores_are_opened() -> None:
    assert [can_open(scheme) for scheme in ("s3", "ftp", "file")] == [True, False, False]


def test_a_container_can_be_named_with_its_account(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("adlfs", reason="needs the extra abfs")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    uri = "abfs://photos@studio.dfs.core.windows.net"
    system, root = open_bucket(uri)
    assert (system.account_name, root) == ("studio", "photos")
    assert redact(f"{uri}/in") == f"{uri}/in"
    assert redact("abfs://photos:secret@studio.dfs.core.windows.net/in") == (
        "abfs://studio.dfs.core.windows.net/in"
    )


def test_a_bucket_of_another_server_has_another_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    for server in ("http://one:9000", "http://two:9000"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", server)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", server)
        keys |= {local_key(f"{scheme}://bucket/home") for scheme in ("s3", "gs", "abfs")}
    assert len(keys) == 6
    assert local_key("s3://bucket/home") in keys and local_key("s3://bucket/other") not in keys

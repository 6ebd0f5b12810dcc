"""Azurite, an emulator of Azure's blob storage, on this machine."""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest

from factory.core.fsspec_systems import PACKAGES
from factory.core.ports import free_port
from tests.services import start_server

BUCKET = "bucket"
# The account of every Azurite, from its documentation.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def _program() -> str | None:
    """Azurite, which npm installs: into the virtual environment, or anywhere on PATH."""
    in_venv = Path(sys.prefix) / "node_modules" / ".bin" / "azurite-blob"
    return str(in_venv) if in_venv.exists() else shutil.which("azurite-blob")


@functools.cache
def _server() -> str:
    """The address of one server for all tests of a process, which ends with it."""
    port = free_port()
    start_server(
        [
            *(str(_program()), "--blobHost", "127.0.0.1", "--blobPort", str(port)),
            *("--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"),
        ],
        port,
    )
    return f"http://127.0.0.1:{port}/{ACCOUNT}"


@contextmanager
def azure_server(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server with a container BUCKET, which this process and its children find by environment."""
    pytest.importorskip("adlfs", reason="needs the extra abfs")
    if _program() is None:
        pytest.skip("needs Azurite: npm install --prefix .venv azurite")
    address = _server()
    patch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING",
        f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
        f"BlobEndpoint={address};",
    )
    patch.setattr("factory.core.object_store.ObjectStore.look_seconds", 0.2)
    system = fsspec.filesystem("abfs", **PACKAGES["abfs"].options)
    if not system.exists(BUCKET):
        system.mkdir(BUCKET)
    yield

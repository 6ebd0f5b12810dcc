"""A registry that cannot be reached is named by its variable, in seconds."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from factory.core.home import Home
from factory.registry import list_versions
from osasis.errors import UserError


@pytest.mark.parametrize(
    ("uri", "shown", "fragment"),
    [
        ("http://127.0.0.1:1", "http://127.0.0.1:1", "no MLflow answers"),
        ("postgresql://me:secret@127.0.0.1:1/db", "postgresql://127.0.0.1:1/db", "no database"),
        ("sqlite:////no/such/folder/a.db", "sqlite:////no/such/folder/a.db", "/no/such/folder"),
        ("gopher://x", "gopher://x", "no MLflow registry can be opened"),
    ],
)
def test_a_dead_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, shown: str, fragment: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        list_versions(Home(tmp_path))
    assert str(caught.value).startswith(f"MLFLOW_TRACKING_URI is {shown}")
    assert fragment in str(caught.value) and "secret" not in str(caught.value)
    assert time.monotonic() - started < 30


def test_a_server_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        uri = f"http://127.0.0.1:{mute.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        with pytest.raises(UserError, match="no MLflow answers"):
            list_versions(Home(tmp_path))


def test_a_dead_proxy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow asks a proxy for servers of this machine too."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError) as caught:
        list_versions(Home(tmp_path))
    assert str(caught.value) == (
        "MLFLOW_TRACKING_URI is http://127.0.0.1:5000: http_proxy is http://127.0.0.1:9, which "
        "does not answer; correct it, or add 127.0.0.1 to no_proxy"
    )

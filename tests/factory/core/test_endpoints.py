"""Servers of object stores that do not answer are named by their variable, in seconds."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from factory.catalog import check_catalog
from factory.core import endpoints
from factory.core.uris import read_bytes
from osasis.errors import UserError
from pipelines.source import open_source


@pytest.fixture(params=["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def variable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in endpoints.S3_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(endpoints, "ANSWER_SECONDS", 1.0)
    return str(request.param)


def test_a_server_that_refuses_connections(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "http://me:secret@127.0.0.1:1")
    for read in (read_bytes, open_source):
        with pytest.raises(UserError) as refused:
            read("s3://bucket/a.png")
        assert str(refused.value) == (
            f"{variable} is http://127.0.0.1:1: no object store answers there (connection "
            "refused); start it, correct the variable, or unset it"
        )


def test_a_server_that_never_answers(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        monkeypatch.setenv(variable, url)
        started = time.monotonic()
        for _ in range(20):
            with pytest.raises(UserError, match=f"{variable} is {url}: .* \\(timed out\\)"):
                read_bytes("s3://bucket/a.png")
        # Asked once, or twice where a minute ends meanwhile.
        assert time.monotonic() - started < 5


def test_a_catalog_names_the_server_once(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    (tmp_path / "c.csv").write_text("image\ns3://bucket/a.png\ns3://bucket/b.png\n")
    with pytest.raises(endpoints.EndpointError, match=f"^{variable} is http://127.0.0.1:1: "):
        check_catalog(tmp_path / "c.csv", "default", {})


def test_a_value_that_is_no_url(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "localhost:9000")
    with pytest.raises(UserError, match=f"{variable} is localhost:9000: no object store"):
        read_bytes("s3://bucket/a.png")


def test_other_schemes_need_no_server(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    (tmp_path / "a.png").write_bytes(b"1")
    assert read_bytes((tmp_path / "a.png").as_uri()) == b"1"

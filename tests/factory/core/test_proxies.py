"""Proxies of the environment."""

from __future__ import annotations

import pytest

from factory.core.proxies import is_loopback, used_proxy


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.8.9.10", "::1", "[::1]", "::ffff:127.0.0.1", "0.0.0.0", "::", "LocalHost",
     "localhost.", "a.localhost"],
)  # fmt: skip
def test_hosts_of_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "10.0.0.1", "128.0.0.1", "::2", "localhost.example", "a"])
def test_other_hosts(host: str) -> None:
    assert not is_loopback(host)


def test_a_proxy_is_named_with_its_variable_and_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert used_proxy("http://a.example") is None
    monkeypatch.setenv("http_proxy", "http://me:secret@10.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "10.0.0.2:9")
    assert used_proxy("HTTP://a.example:80/x") == "http_proxy is http://10.0.0.1:9"
    assert used_proxy("https://a.example") == "HTTPS_PROXY is 10.0.0.2:9"
    assert used_proxy("http://127.0.0.1:8000") is None
    monkeypatch.setenv("no_proxy", "b.example,.c.example")
    assert used_proxy("http://b.example:8000") is None
    assert used_proxy("http://me@x.c.example") is None
    assert used_proxy("http://a.example") is not None

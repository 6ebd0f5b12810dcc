"""Webhooks: attempts, redirects, signatures; the start and end of a command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest

from factory.core.webhooks import SECRET, notified, send_webhook, signature
from osasis.errors import UserError
from tests.webhook_server import serve


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ThreadingHTTPServer]]:
    monkeypatch.setattr("factory.core.webhooks.PAUSES", (0.0, 0.0))
    servers: list[ThreadingHTTPServer] = []
    yield servers
    for server in servers:
        server.shutdown()
        server.server_close()


def test_attempts_and_redirects(ended: list[ThreadingHTTPServer]) -> None:
    server, received = serve(0, [500, 503])
    ended.append(server)
    url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    assert send_webhook(url, b'{"a": 1}') is None and received == [{"a": 1}]
    server, received = serve(0, [302, 302, 302])
    ended.append(server)
    url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    assert send_webhook(url, b"{}") == "it answers 302" and received == []


def test_a_body_is_signed_with_the_operators_secret(
    ended: list[ThreadingHTTPServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    # RFC 4231, test case 2.
    want = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert signature(b"what do ya want for nothing?", "Jefe") == f"sha256={want}"
    server, _ = serve(0, [])
    ended.append(server)
    url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    assert send_webhook(url, b"{}") is None
    monkeypatch.setenv(SECRET, "a secret")
    assert send_webhook(url, b"{}") is None
    signatures = server.RequestHandlerClass.signatures  # type: ignore[attr-defined]
    assert signatures == [None, signature(b"{}", "a secret")]


def test_a_command_tells_its_start_end_and_failure(ended: list[ThreadingHTTPServer]) -> None:
    server, received = serve(0, [])
    ended.append(server)
    url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    lines: list[str] = []
    with notified(url, "train", {"catalog": "c.yaml"}, lines.append) as finish:
        finish(True, {"registered": 3})
    with notified(url, "train", {}, lines.append) as finish:
        finish(False, {"failed": 1})
    with pytest.raises(UserError), notified(url, "stylize", {}, lines.append):
        raise UserError("no photo")
    told = [(r["event"], r["command"], {k: r.get(k) for k in ("registered", "failed", "error")})
            for r in received]  # fmt: skip
    nothing = {"registered": None, "failed": None, "error": None}
    assert told == [
        ("start", "train", nothing), ("end", "train", {**nothing, "registered": 3}),
        ("start", "train", nothing), ("failure", "train", {**nothing, "failed": 1}),
        ("start", "stylize", nothing), ("failure", "stylize", {**nothing, "error": "no photo"}),
    ]  # fmt: skip
    assert received[0]["catalog"] == received[1]["catalog"] == "c.yaml"
    assert received[1]["seconds"] >= 0 and lines == []


def test_an_address_that_does_not_answer_fails_nothing(
    ended: list[ThreadingHTTPServer],
) -> None:
    lines: list[str] = []
    with notified("http://127.0.0.1:9/token", "train", {}, lines.append) as finish:
        finish(True, {})
    assert len(lines) == 2 and all("webhook at 127.0.0.1 is not reached" in x for x in lines)
    assert "token" not in json.dumps(lines)
    refused = pytest.raises(UserError, match="--notify: it must be an address")
    with refused, notified("file:///etc/passwd", "train", {}, lines.append):
        pass
    with notified(None, "train", {}, lines.append) as finish:
        finish(True, {})
    assert len(lines) == 2

"""Webhooks: allowed addresses, attempts, redirects, and a job of a real server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from serving.errors import ApiError
from serving.webhooks import check_webhook, send_webhook
from tests.serving.conftest import Server, photo_bytes, wait_until
from tests.serving.test_http import INK, error_of


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://hooks.example/styles/a?b=c", True),
        ("https://hooks.example/styles", True),
        ("https://hooks.example/other", False),
        ("https://hooks.example/stylesx", False),
        ("https://hooks.example/styles/../other", False),
        ("http://hooks.example/styles/a", False),
        ("https://hooks.example:8443/styles/a", False),
        ("https://hooks.example.evil/styles/a", False),
        ("https://me@hooks.example/styles/a", False),
        ("file:///styles/a", False),
        ("https://hooks.example:port/styles", False),
    ],
)
def test_only_allowed_addresses_are_taken(url: str, allowed: bool) -> None:
    if allowed:
        check_webhook(url, ["https://hooks.example/styles/"])
        return
    with pytest.raises(ApiError) as e:
        check_webhook(url, ["https://hooks.example/styles/"])
    assert (e.value.status, e.value.field) == (422, "webhook")


class Hook(BaseHTTPRequestHandler):
    """Answers with the next of ``statuses``; keeps what it is sent."""

    statuses: list[int]
    received: list[dict[str, Any]]

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 200:
            self.received.append(json.loads(data))
        self.send_response(status)
        self.send_header("Location", "http://127.0.0.1:9/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def serve(port: int, statuses: list[int]) -> tuple[ThreadingHTTPServer, list[dict[str, Any]]]:
    received: list[dict[str, Any]] = []
    handler = type("Own", (Hook,), {"statuses": statuses, "received": received})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, received


@pytest.fixture
def ended() -> Iterator[list[ThreadingHTTPServer]]:
    servers: list[ThreadingHTTPServer] = []
    yield servers
    for server in servers:
        server.shutdown()
        server.server_close()


def test_attempts_and_redirects(
    ended: list[ThreadingHTTPServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.webhooks.PAUSES", (0.0, 0.0))
    server, received = serve(0, [500, 503])
    ended.append(server)
    url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    assert send_webhook(url, b'{"a": 1}') is None and received == [{"a": 1}]
    server, received = serve(0, [302, 302, 302])
    ended.append(server)
    url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    assert send_webhook(url, b"{}") == "it answers 302" and received == []


@pytest.mark.slow
def test_a_job_tells_its_end(
    server: Server, hook_port: int, ended: list[ThreadingHTTPServer]
) -> None:
    hook, received = serve(hook_port, [])
    ended.append(hook)
    form = {"mix": json.dumps(INK), "webhook": f"http://127.0.0.1:{hook_port}/hooks/42"}
    files = [("image", (f"{i}.png", photo_bytes(850 + i))) for i in range(2)]
    job = server.post("/v1/jobs", files=files, data=form)
    assert job.status_code == 202, job.text
    wait_until(lambda: received, 60)
    assert (received[0]["id"], received[0]["state"], received[0]["done"]) == (
        job.json()["id"], "done", 2,
    )  # fmt: skip
    other = {**form, "webhook": f"http://127.0.0.1:{hook_port}/elsewhere"}
    assert error_of(server.post("/v1/jobs", files=files, data=other), 422)["field"] == "webhook"
    refused = server.post("/v1/stylize", files=files[:1], data=form)
    assert error_of(refused, 422)["field"] == "webhook"

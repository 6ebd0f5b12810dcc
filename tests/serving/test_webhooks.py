"""Webhooks of jobs: allowed addresses, and a job of a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest

from serving.errors import ApiError
from serving.webhooks import check_webhook
from tests.serving.conftest import Server, photo_bytes, wait_until
from tests.serving.test_http import INK, error_of
from tests.webhook_server import serve


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


@pytest.fixture
def ended() -> Iterator[list[ThreadingHTTPServer]]:
    servers: list[ThreadingHTTPServer] = []
    yield servers
    for server in servers:
        server.shutdown()
        server.server_close()


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

"""The gate in front of a small HTTP server of the standard library."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from factory.core.ports import free_port
from serving.gate import Gate, GateLimits

LARGE = b"0123456789abcdef" * 200_000


class Echo(BaseHTTPRequestHandler):
    """Answers a request with its method, path and body; GET /large with 3.2 MB."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        told = f"{self.command} {self.path} ".encode() + body
        answer = LARGE if self.path == "/large" else told
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def gate(limits: GateLimits) -> Iterator[int]:
    """A gate in front of ``Echo``; yields its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    opened, port = Gate(server.server_address[1], limits), free_port()
    opened.listen("127.0.0.1", port)
    try:
        yield port
    finally:
        opened.close()
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with gate(GateLimits(100, 100, 1.0)) as number:
        yield number


def sent(port: int, data: bytes) -> bytes:
    """The answer to raw bytes, until the connection ends."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(data)
        parts = []
        while part := client.recv(65_536):
            parts.append(part)
    return b"".join(parts)


def error_of(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Type: application/json" in head and b"Connection: close" in head
    error: dict[str, Any] = json.loads(body)["error"]
    assert head.startswith(f"HTTP/1.1 {error['status']} ".encode())
    return error


def test_requests_and_answers_pass_unchanged(port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        for _ in range(3):  # on one connection
            assert http.post("/a?b=c", content=b"body").text == "POST /a?b=c body"
        assert http.get("/large").content == LARGE
        assert http.post("/x", content=iter([b"in ", b"chunks"])).text == "POST /x in chunks"
        assert http.post("/large", content=LARGE).content == LARGE
    two = (
        b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    answer = sent(port, two)
    assert answer.index(b"GET /1 ") < answer.index(b"GET /2 ")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: abc\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nabc\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", 431),
    ],
    ids=str,
)
def test_malformed_requests_are_answered_as_json(port: int, data: bytes, status: int) -> None:
    error = error_of(sent(port, data))
    assert error["status"] == status and error["message"]


def test_a_head_must_arrive_in_time(port: int) -> None:
    for part in (b"", b"GET / HTTP/1.1\r\nHo"):
        start = time.monotonic()
        error = error_of(sent(port, part))
        assert (error["status"], error["allowed"]) == (408, "at most 1 s")
        assert 0.8 < time.monotonic() - start < 5


def test_connections_are_bounded() -> None:
    for limits, status in ((GateLimits(0, 3, 5.0), 429), (GateLimits(3, 0, 5.0), 503)):
        with gate(limits) as port, contextlib.ExitStack() as held:
            for _ in range(3):
                held.enter_context(socket.create_connection(("127.0.0.1", port)))
            error = error_of(sent(port, b""))
            assert error["status"] == status and "at most 3" in error["allowed"]
            held.close()
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
                assert http.get("/again").text == "GET /again "


def test_a_dead_server_is_answered_with_503() -> None:
    opened, port = Gate(free_port(), GateLimits(0, 0, 5.0)), free_port()
    opened.listen("127.0.0.1", port)
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/")
        assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
    finally:
        opened.close()

"""The client and the proxies of its environment, with a real server and a real proxy."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from osasis.errors import UserError
from serving.client import AsyncClient, Client, ServerError

DEAD = "http://127.0.0.1:9"
PAGE = {"styles": [{"id": "oil"}], "next_offset": None}


class Handler(BaseHTTPRequestHandler):
    """A server of styles; as a proxy, it asks the server for what any other host is asked for."""

    status, body = 200, json.dumps(PAGE).encode()
    upstream = ""
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        status, body = self.status, self.body
        if self.upstream:
            path = self.path.partition("://")[2].partition("/")[2]
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(f"{self.upstream}/{path}") as answer:
                body = answer.read()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[str, list[str]]]]:
    """Starts a server or proxy; returns its URL and the list of the paths it is asked for."""
    running: list[ThreadingHTTPServer] = []

    def start(**attributes: object) -> tuple[str, list[str]]:
        asked: list[str] = []
        handler = type("Own", (Handler,), {"asked": asked, **attributes})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        running.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}", asked

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY"])
def test_this_machine_is_reached_past_a_proxy(
    serve: Callable[..., tuple[str, list[str]]],
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    name: str,
) -> None:
    url, _ = serve()
    monkeypatch.setenv(name, DEAD)
    assert Client(url.replace("127.0.0.1", host)).styles() == PAGE["styles"]


def test_other_hosts_are_reached_through_the_proxy(
    serve: Callable[..., tuple[str, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = serve()
    proxy, passed = serve(upstream=url)
    monkeypatch.setenv("http_proxy", proxy)
    assert Client("http://styles.example:8000").styles() == PAGE["styles"]
    assert passed == ["http://styles.example:8000/v1/styles?offset=0&limit=200&q="]
    assert asked == ["/v1/styles?offset=0&limit=200&q="]


@pytest.mark.parametrize("proxy", [DEAD, "http://me:secret@127.0.0.1:9", "127.0.0.1:9"])
def test_a_dead_proxy_is_named(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(UserError) as e:
        Client("http://styles.example:8000").styles()
    shown = proxy.replace("me:secret@", "")
    assert str(e.value) == (
        f"http_proxy is {shown}: http://styles.example:8000 cannot be reached "
        "([Errno 111] Connection refused)"
    )


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:port", "http:/127.0.0.1", "socks5://a:1"])
def test_a_proxy_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(UserError) as e:
        Client("http://styles.example").styles()
    assert str(e.value).startswith(f"http_proxy is {proxy}: http://styles.example cannot be")


def test_no_proxy_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", DEAD)
    monkeypatch.setenv("no_proxy", "styles.invalid")
    with pytest.raises(UserError) as e:
        Client("http://styles.invalid").styles()
    assert str(e.value).startswith("http://styles.invalid cannot be reached (")


def test_answers_of_a_proxy_name_it(
    serve: Callable[..., tuple[str, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, _ = serve(status=502, body=b"<html>no such host</html>")
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(ServerError) as e:
        Client("http://styles.example").styles()
    assert str(e.value) == f"502: Bad Gateway (http_proxy is {proxy})"
    page, _ = serve(body=b"<html>log in</html>")
    monkeypatch.setenv("http_proxy", page)
    with pytest.raises(UserError) as refused:
        Client("http://styles.example").styles()
    assert str(refused.value) == (
        f"http_proxy is {page}: http://styles.example answers b'<html>log in</html>', which is no "
        "answer of a style server"
    )


def test_servers_that_speak_no_http_are_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:

        def greet() -> None:
            connection, _ = mute.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(UserError, match=f"{url} cannot be reached"):
            Client(url).styles()
        thread.join()
    with pytest.raises(UserError, match="localhost:8000 cannot be reached"):
        Client("localhost:8000").styles()


def test_the_async_client_asks_concurrently(serve: Callable[..., tuple[str, list[str]]]) -> None:
    barrier = threading.Barrier(3, timeout=20)

    def slow(handler: Any) -> None:
        barrier.wait()  # passes once three requests are open
        Handler.do_GET(handler)

    url, asked = serve(do_GET=slow)

    async def ask() -> list[Any]:
        client = AsyncClient(url)
        return await asyncio.gather(*(client.styles() for _ in range(3)))

    assert asyncio.run(ask()) == [PAGE["styles"]] * 3 and len(asked) == 3


def test_a_busy_server_is_asked_again_when_it_says(
    serve: Callable[..., tuple[str, list[str]]],
) -> None:
    def busy(handler: Any) -> None:
        handler.asked.append(handler.path)
        late = len(handler.asked) > 2
        body = json.dumps(PAGE if late else {"error": {"message": "busy"}}).encode()
        handler.send_response(200 if late else 503)
        if not late:
            handler.send_header("Retry-After", "0")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    url, asked = serve(do_GET=busy)
    assert Client(url).styles() == PAGE["styles"] and len(asked) == 3
    with pytest.raises(ServerError, match="503: busy"):
        url, _ = serve(do_GET=busy)
        Client(url, tries=2).styles()

"""An emulator of Google Cloud Storage on this machine, with the conditions that it lacks."""

from __future__ import annotations

import contextlib
import email.parser
import functools
import http.client
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit

import fsspec
import pytest

from factory.core.fsspec_systems import PACKAGES
from factory.core.ports import free_port
from tests.services import start_server

BUCKET = "bucket"
# Headers that belong to one connection.
OWN = {"connection", "transfer-encoding", "content-length", "date", "server"}


class _Proxy(BaseHTTPRequestHandler):
    """Passes requests on; refuses to create an object that exists (``ifGenerationMatch=0``)."""

    protocol_version = "HTTP/1.1"
    port: int
    one_at_a_time = threading.Lock()

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        conditional = parse_qs(urlsplit(self.path).query).get("ifGenerationMatch") == ["0"]
        if not conditional:
            self._answer(*self._ask(self.command, self.path, body))
            return
        with self.one_at_a_time:
            place = f"/storage/v1/b/{BUCKET}/o/{quote(self._object(body), safe='')}"
            if self._ask("GET", place, b"")[0] == 200:
                self._answer(412, [("Content-Type", "application/json")], b"{}")
            else:
                self._answer(*self._ask(self.command, self.path, body))

    def _object(self, body: bytes) -> str:
        """The name in the first part of an upload."""
        kind = f"Content-Type: {self.headers['Content-Type']}\n\n".encode()
        first = email.parser.BytesParser().parsebytes(kind + body).get_payload()[0]
        return str(json.loads(first.get_payload(decode=True))["name"])

    def _ask(self, method: str, path: str, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in OWN}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in OWN:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        with contextlib.suppress(ConnectionError):  # the client has left
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = do_HEAD = _pass_on  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


@functools.cache
def _server() -> str:
    """The address of one server for all tests of a process."""
    port = free_port()
    module = "gcp_storage_emulator"
    start_server(
        [
            *(sys.executable, "-m", module, "start", "--in-memory", "--default-bucket", BUCKET),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        port,
    )
    handler = type("Proxy", (_Proxy,), {"port": port})
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{proxy.server_port}"


@contextmanager
def gcs_server(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server with a bucket, which this process and its children find by environment."""
    # gcsfs reads this when it is imported. It would ask Google of what kind a bucket is.
    patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    pytest.importorskip("gcsfs", reason="needs the extra gs")
    pytest.importorskip("gcp_storage_emulator", reason="needs gcp-storage-emulator")
    patch.setenv("STORAGE_EMULATOR_HOST", _server())
    patch.setattr("factory.core.object_store.ObjectStore.look_seconds", 0.2)
    assert fsspec.filesystem("gs", **PACKAGES["gs"].options).exists(BUCKET)
    yield

"""A server that takes webhooks, for tests."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hook(BaseHTTPRequestHandler):
    """Answers with the next of ``statuses``; keeps what it is sent, and its signatures."""

    statuses: list[int]
    received: list[dict[str, Any]]
    signatures: list[str | None]

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 200:
            self.received.append(json.loads(data))
            self.signatures.append(self.headers.get("X-Style-Factory-Signature"))
        self.send_response(status)
        self.send_header("Location", "http://127.0.0.1:9/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def serve(port: int, statuses: list[int]) -> tuple[ThreadingHTTPServer, list[dict[str, Any]]]:
    received: list[dict[str, Any]] = []
    handler = type("Own", (Hook,), {"statuses": statuses, "received": received, "signatures": []})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, received

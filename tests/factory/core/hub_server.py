"""A server with the parts of the Hugging Face hub's HTTP interface that a download needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub_of(folder: Path, name: str) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder as the model ``name``; yields the URL and the paths of downloaded files."""
    served: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, with_body: bool) -> None:
            path = unquote(urlparse(self.path).path)
            files = f"/{name}/resolve/{COMMIT}/"
            if path.startswith(f"/api/models/{name}/tree/"):
                self._send(json.dumps(tree(folder)).encode(), with_body)
            elif path.startswith(f"/api/models/{name}"):
                siblings = [{"rfilename": f["path"]} for f in tree(folder)]
                info = {"id": name, "sha": COMMIT, "siblings": siblings, "tags": []}
                self._send(json.dumps(info).encode(), with_body)
            elif path.startswith(files) and (folder / path.removeprefix(files)).is_file():
                if with_body:
                    served.append(path.removeprefix(files))
                self._send((folder / path.removeprefix(files)).read_bytes(), with_body)
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def _send(self, body: bytes, with_body: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", served
    finally:
        server.shutdown()
        server.server_close()


def tree(folder: Path) -> list[dict[str, object]]:
    """The folder's files, as the hub lists them."""
    return [
        {
            "type": "file",
            "path": p.relative_to(folder).as_posix(),
            "size": p.stat().st_size,
            "oid": hashlib.sha1(p.read_bytes()).hexdigest(),
        }
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    ]

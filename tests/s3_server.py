"""An S3 server on this machine, which records the requests it gets."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from factory.core.fsspec_systems import PACKAGES

BUCKET = "bucket"
KEY, SECRET = "CANARYKEYID0000", "CanarySecretOfTheStore"


class S3Server:
    """moto's S3 on a free port. requests: method and path of each request to a bucket."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *args: Any) -> None:
                pass

        self.requests: list[tuple[str, str]] = []
        # Answers instead of S3 where it returns a status line; for stores that refuse.
        self.refuse: Callable[[str, str], str | None] = lambda method, path: None
        self.knows_conditions = True
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path != "/":
            self.requests.append((method, path))
        if (status := self.refuse(method, path)) is not None:
            start_response(status, [("Content-Type", "application/xml")])
            code = status.partition(" ")[2].replace(" ", "")
            return [f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()]
        if not self.knows_conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer

    def count(self, start: str = "") -> Counter[str]:
        """Requests by method, among those whose path starts like this."""
        return Counter(m for m, path in self.requests if path.startswith(f"/{BUCKET}/{start}"))


@functools.cache
def _server() -> S3Server:
    """One server for all tests of a process: moto's buckets and fsspec's clients are global."""
    return S3Server()


@contextmanager
def s3_server(patch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server with a bucket, which this process and its children find by environment.

    States are looked at often, for the tests to be fast.
    """
    pytest.importorskip("moto", reason="needs moto")
    pytest.importorskip("s3fs", reason="needs the extra s3")
    import fsspec

    server = _server()
    for name, value in server.environment.items():
        patch.setenv(name, value)
    patch.setattr("factory.core.object_store.ObjectStore.look_seconds", 0.2)
    system = fsspec.filesystem("s3", **PACKAGES["s3"].options)
    if not system.exists(BUCKET):
        system.mkdir(BUCKET)
    server.requests.clear()
    yield server

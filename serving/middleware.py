"""ASGI middlewares of the ingress: the log of requests, HEAD, and requests of other origins."""

from __future__ import annotations

import time
import uuid
from typing import Any

from fastapi.responses import JSONResponse
from starlette.middleware.cors import CORSMiddleware

from serving.service import current, log_event

# Headers of answers that scripts of other origins may read.
EXPOSED = (
    "X-Style-Version", "X-Base", "X-Mix", "X-Encoding", "X-Encoding-Cached", "X-Photo-Size",
    "X-Image-Size", "X-Faces", "X-Batch-Size", "X-Total-Seconds", "Retry-After", "Location",
    "X-Log-Id",
)  # fmt: skip


class RequestLog:
    """Counts and logs requests, and answers unexpected errors as JSON."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        service = current()
        is_work = scope["method"] == "POST"
        service.open_requests += is_work
        # 499: the client disconnected before an answer was sent.
        started, status, request_id = time.monotonic(), 499, uuid.uuid4().hex[:16]

        async def send_logged(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []), (b"x-log-id", request_id.encode())
                ]  # fmt: skip
            await send(message)

        failure = None
        headers = {name.decode("latin-1"): value.decode("latin-1")
                   for name, value in scope["headers"]}  # fmt: skip
        try:
            with service.tracing.request(scope["method"], headers) as span:
                await self.app(scope, receive, send_logged)
                if span is not None:
                    span.update_name(f"{scope['method']} {_route(scope)}")
                    span.set_attribute("http.response.status_code", status)
        except Exception as e:
            failure = f"{type(e).__name__}: {e}"[:500]
            if status != 499:
                raise
            message = f"unexpected error; see x-log-id {request_id} in the server's log"
            answer = JSONResponse({"error": {"status": 500, "message": message}}, 500)
            await answer(scope, receive, send_logged)
        finally:
            service.open_requests -= is_work
            seconds = time.monotonic() - started
            route = _route(scope)
            service.counters.add("requests_total", route=route, status=status)
            service.counters.observe("request_seconds", seconds)
            fields = {"error": failure} if failure else {}
            log_event(service, request=request_id, method=scope["method"], route=route,
                      status=status, seconds=round(seconds, 4),
                      key=scope.get("state", {}).get("key"), **fields)  # fmt: skip


def _route(scope: Any) -> str:
    """The path of a request's route, with its parameters' names."""
    return getattr(scope.get("route"), "path", "other")


class Head:
    """Answers HEAD with the head of the answer to GET."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_head(message: Any) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        scope["method"] = "GET"
        try:
            await self.app(scope, receive, send_head)
        finally:
            scope["method"] = "HEAD"


class Cors:
    """Allows scripts of the origins in the setting ``cors`` (https://fetch.spec.whatwg.org)."""

    def __init__(self, app: Any) -> None:
        self.app = app
        # Made at the first request: the application exists before its settings.
        self._chosen: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._chosen is None:
            origins = current().config.cors
            self._chosen = self.app
            if origins:
                self._chosen = CORSMiddleware(
                    self.app,
                    allow_origins=origins,
                    allow_methods=["GET", "HEAD", "POST", "DELETE"],
                    allow_headers=["Authorization", "X-API-Key", "Content-Type"],
                    expose_headers=EXPOSED,
                )
        await self._chosen(scope, receive, send)

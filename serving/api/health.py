"""Health, readiness, metrics and the page."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response

from serving.errors import ApiError
from serving.metrics import render
from serving.schemas import ERRORS
from serving.service import current

router = APIRouter(tags=["health"])
PAGE = Path(__file__).resolve().parents[1] / "page"
MEDIA = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
FILES = {p.name: MEDIA[p.suffix] for p in PAGE.iterdir() if p.suffix in MEDIA}
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)


@router.get("/healthz", responses={503: ERRORS[503]})
async def healthz() -> dict[str, str]:
    """Answer 200 while this process and the shared-state actor run."""
    service = current()
    if time.monotonic() - service.last_heartbeat > 30:
        raise ApiError(503, "the shared-state actor has not answered for 30 s", retry_after=5)
    return {"status": "ok"}


@router.get("/readyz", responses={503: ERRORS[503]})
async def readyz() -> dict[str, Any]:
    """Answer 200 while an engine answers and the server is not closing."""
    service = current()
    if service.draining:
        raise ApiError(503, "this server is closing", retry_after=10)
    try:
        problem = await asyncio.wait_for(service.engines.problem.remote(), 10)
    except Exception:
        problem = "no engine answers"
    if problem:
        raise ApiError(503, str(problem), retry_after=5)
    return {"status": "ready", "styles": len(service.catalog.styles)}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics() -> Response:
    """Counters of all processes in Prometheus's text format."""
    samples = await current().state.samples.remote()
    return Response(render(samples), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/", include_in_schema=False)
async def page() -> Response:
    return _file("index.html")


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    return _file("api.html")


@router.get("/page/{name}", include_in_schema=False)
async def page_file(name: str) -> Response:
    if name not in FILES:
        raise ApiError(404, f"there is no {name[:64]!r}", field="path")
    return _file(name)


def _file(name: str) -> Response:
    return Response((PAGE / name).read_bytes(), media_type=f"{FILES[name]}; charset=utf-8",
                    headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache",
                             "X-Content-Type-Options": "nosniff"})  # fmt: skip

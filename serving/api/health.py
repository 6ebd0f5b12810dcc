"""Health, readiness and metrics."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Response

from serving.errors import ApiError
from serving.metrics import render
from serving.schemas import ERRORS
from serving.service import current

router = APIRouter(tags=["health"])


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

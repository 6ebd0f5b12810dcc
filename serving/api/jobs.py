"""Jobs: more photos than one request may hold, worked off behind the interactive ones."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastapi import APIRouter, Request, Response

from serving.api.common import authorised, choose
from serving.api.stylize import provenance
from serving.bodies import read_stylize
from serving.engine import Work
from serving.errors import ApiError
from serving.request_images import MEDIA, encoded
from serving.schemas import ERRORS, MIX_EXAMPLE, JobAnswer, StylizeBody, body_docs
from serving.service import Service, current

router = APIRouter(tags=["jobs"])


@router.post(
    "/v1/jobs",
    status_code=202,
    response_model=JobAnswer,
    responses=ERRORS,
    openapi_extra=body_docs(
        StylizeBody, {"encodings": ["0f343b0931126a20f133d67c2b018a3b"], "mix": MIX_EXAMPLE}
    ),
)
async def submit(request: Request) -> Response:
    """Queue photos for a mix; the header `Location` names the job's path."""
    service = current()
    owner = authorised(service, request)
    choose(request, ["application/json"])
    with service.open(request):
        asked = await read_stylize(request, service.config.limits, service.config.limits.job_images)
        works = await service.in_time(service.works(asked))
    job = await service.keeper.add_job.remote(owner, len(works), MEDIA["PNG"], service.name)
    if job is None:
        raise ApiError(503, "all places for jobs are taken", allowed=f"{service.config.jobs} jobs",
                       retry_after=service.retry_after() + 10)  # fmt: skip
    service.background(_work_off(service, job, works))
    row = await service.keeper.job.remote(job, owner)
    return Response(json.dumps(row), 202, media_type="application/json",
                    headers={"Location": f"/v1/jobs/{job}"})  # fmt: skip


@router.get("/v1/jobs/{job}", response_model=JobAnswer, responses=ERRORS)
async def state(job: str, request: Request) -> Response:
    """State of a job and paths of its finished images."""
    service = current()
    row = await service.keeper.job.remote(job, authorised(service, request))
    if row is None:
        raise _unknown(job)
    return Response(json.dumps(row), media_type="application/json")


@router.get("/v1/jobs/{job}/images/{index}", response_class=Response, responses={
    200: {"content": {"image/png": {}}}, **ERRORS})  # fmt: skip
async def image(job: str, index: int, request: Request) -> Response:
    """One finished image of a job, as PNG."""
    service = current()
    found = await service.keeper.job_image.remote(job, authorised(service, request), index)
    if found is None:
        raise _unknown(f"{job}/images/{index}")
    return Response(found[1], media_type=found[0])


def _unknown(job: str) -> ApiError:
    return ApiError(404, f"there is no job {job[:64]!r} (any more)", field="job", value=job)


async def _work_off(service: Service, job: str, works: list[Work]) -> None:
    keeper: Any = service.keeper
    try:
        await keeper.job_running.remote(job)
        # Behind the interactive requests, which may fill the queue; half of it stays theirs.
        half = service.config.queue // 2
        size = max(1, min(service.config.batch, half))
        for start in range(0, len(works), size):
            part = works[start : start + size]
            async with service.job_turn:
                while service.admission.images > half:
                    await asyncio.sleep(0.1)
                with service.admission.room(len(part)):
                    results = await service.run_all(part)
            for work, result in zip(part, results, strict=True):
                facts = provenance(service, work, result, "PNG")
                data = await asyncio.to_thread(encoded, result.picture, facts)
                await keeper.job_result.remote(job, data)
    except Exception as e:
        message = e.message if isinstance(e, ApiError) else "it failed; see the server's log"
        await keeper.job_failed.remote(job, message)

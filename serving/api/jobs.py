"""Jobs: more photos than one request may hold, run at lower priority than requests."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from factory.core.webhooks import send_webhook
from serving.api.common import authorised, negotiate
from serving.bodies import StylizeRequest, read_job
from serving.engine import Result
from serving.errors import ApiError
from serving.photo_work import PhotoWork
from serving.request_images import MEDIA
from serving.schemas import ERRORS, STYLIZE_EXAMPLE, JobAnswer, JobBody, body_docs
from serving.service import Service, log_event
from serving.submissions import TaskStatus
from serving.webhooks import check_webhook

router = APIRouter(tags=["jobs"])
# Seconds between two looks at a running job.
LOOK_SECONDS = 0.5


@router.post(
    "/v1/jobs",
    status_code=202,
    responses=ERRORS,
    openapi_extra=body_docs(JobBody, STYLIZE_EXAMPLE),
)
async def submit(request: Request, response: Response) -> JobAnswer:
    """Queue photos for a mix; the header `Location` names the job's path."""
    service, owner = authorised(request)
    negotiate(request, ["application/json"])
    limits = service.config.limits
    with service.admit_body() as reserve:
        body, webhook = await read_job(request, limits, reserve)
        check_webhook(webhook, service.config.webhooks)
        works = await service.with_timeout(_works(service, body, owner))
    job = await service.state.add_job.remote(owner, len(works), service.name)
    if job is None:
        raise ApiError(503, "too many jobs", allowed=f"{service.config.jobs} jobs",
                       retry_after=service.admission.retry_after() + 10)  # fmt: skip
    service.run_in_background(_run_and_tell(service, job, owner, works, webhook))
    response.headers["Location"] = f"{request.scope.get('root_path', '')}/v1/jobs/{job}"
    answer: JobAnswer = await service.state.job.remote(job, owner)
    return answer


@router.get("/v1/jobs/{job}", responses=ERRORS)
async def state(job: str, request: Request) -> JobAnswer:
    """State of a job and paths of its finished images."""
    service, owner = authorised(request)
    answer: JobAnswer | None = await service.state.job.remote(job, owner)
    if answer is None:
        raise _unknown(job)
    return answer


@router.delete("/v1/jobs/{job}", responses=ERRORS)
async def cancel(job: str, request: Request) -> JobAnswer:
    """Cancel a job; its finished images stay until it is dropped."""
    service, owner = authorised(request)
    answer: JobAnswer | None = await service.state.cancel_job.remote(job, owner)
    if answer is None:
        raise _unknown(job)
    return answer


@router.get("/v1/jobs/{job}/images/{index}", response_class=Response, responses={
    200: {"content": {"image/png": {}}}, **ERRORS})  # fmt: skip
async def image(job: str, index: int, request: Request) -> Response:
    """One finished image of a job, as PNG."""
    service, owner = authorised(request)
    png = await service.state.job_image.remote(job, owner, index)
    if png is None:
        raise _unknown(f"{job}/images/{index}")
    return Response(png, media_type=MEDIA["png"])


def _unknown(job: str) -> ApiError:
    return ApiError(404, f"job {job[:64]!r} is unknown or has expired", field="job", value=job)


async def _works(service: Service, body: StylizeRequest, owner: str) -> list[PhotoWork]:
    body = await service.with_own_style(body)
    photos = await service.photos.of_request(body.photos, body.encodings, owner)
    return await service.make_works(body, photos, "png")


async def _run_and_tell(
    service: Service, job: str, owner: str, works: list[PhotoWork], webhook: str | None
) -> None:
    """Run a job, then send its state to the webhook."""
    await _run(service, job, works)
    answer: JobAnswer | None = await service.state.job.remote(job, owner)
    if webhook is None or answer is None:
        return
    problem = await asyncio.to_thread(send_webhook, webhook, answer.model_dump_json().encode())
    if problem is not None:
        log_event(service, job=job, error=f"the webhook was not reached: {problem}")


async def _run(service: Service, job: str, works: list[PhotoWork]) -> None:
    """Run a job's works in batches and store each image; an error fails the job."""
    try:
        # Jobs use at most half of the queue, so that interactive requests are always admitted.
        half = service.config.queue // 2
        size = max(1, min(service.config.batch, half))
        for start in range(0, len(works), size):
            batch = works[start : start + size]
            async with service.job_slots:
                while service.admission.images > half:
                    await asyncio.sleep(0.1)
                with service.admission.admit_images(len(batch)):
                    results = await _run_unless_cancelled(service, job, batch)
            if results is None:
                return
            for work, of_work in zip(batch, results, strict=True):
                image, _ = await service.photos.in_thread(work.image, of_work)
                await service.state.job_result.remote(job, image)
    except Exception as e:
        message = e.message if isinstance(e, ApiError) else "the job failed; see the server's log"
        await service.state.job_failed.remote(job, message)


async def _run_unless_cancelled(
    service: Service, job: str, batch: list[PhotoWork]
) -> list[list[Result]] | None:
    """The results of a batch; None where the job is cancelled, which stops the work."""
    status = TaskStatus()

    def report(_: int, newest: TaskStatus) -> None:
        nonlocal status
        status = newest

    running = asyncio.create_task(service.run_works(batch, report))
    while not running.done():
        if not await service.state.job_running.remote(job, status):
            running.cancel()
            return None
        await asyncio.wait([running], timeout=LOOK_SECONDS)
    return running.result()

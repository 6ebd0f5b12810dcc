"""POST /v1/stylize."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from osasis.choices import ImageFormat
from osasis.images.geometry import Size
from serving.api.common import authorised, negotiate
from serving.api.events import EVENTS, event_stream
from serving.bodies import StylizeRequest, read_stylize
from serving.photo_work import PhotoWork, timing
from serving.request_images import MEDIA
from serving.schemas import ERRORS, STYLIZE_EXAMPLE, StylizeAnswer, StylizeBody, body_docs
from serving.service import Report, Service

router = APIRouter(tags=["stylize"])
PICTURES = {m: {"schema": {"type": "string", "format": "binary"}} for m in MEDIA.values()}


@router.post(
    "/v1/stylize",
    response_model=StylizeAnswer,
    responses={200: {"content": {**PICTURES, EVENTS: {"schema": {"type": "string"}}}}, **ERRORS},
    openapi_extra=body_docs(StylizeBody, STYLIZE_EXAMPLE),
)
async def stylize(request: Request) -> Response:
    """Stylize photos, or photos sent before, with a mix. One image is answered as PNG, JPEG, WebP
    or JSON, by Accept; several images as JSON. With Accept `text/event-stream`, the answer is
    events `progress`, then `result` with the JSON or `error`; disconnecting cancels the work."""
    service, owner = authorised(request)
    limits = service.config.limits
    with contextlib.ExitStack() as held:
        reserve = held.enter_context(service.admit_body())
        body = await read_stylize(request, limits, reserve)
        pictures = list(MEDIA.values()) if body.count == 1 else []
        media = negotiate(request, [*pictures, "application/json", EVENTS])
        held.enter_context(service.admission.admit_images(body.count))
        if media != EVENTS:
            return await service.with_timeout(_answer(service, body, owner, media))

        async def work(report: Report) -> dict[str, Any]:
            done = await service.with_timeout(run(service, body, owner, "png", report))
            return done.document(service)

        speed = service.admission.throughput
        return event_stream(work, held.pop_all(), lambda: speed.seconds_per_image)


async def _answer(service: Service, body: StylizeRequest, owner: str, media: str) -> Response:
    kind: ImageFormat = next((k for k, m in MEDIA.items() if m == media), "png")
    done = await run(service, body, owner, kind)
    headers = done.headers(service)
    if media != "application/json":
        return Response(done.images[0][0], media_type=media, headers=headers)
    text = json.dumps(done.document(service))
    return Response(text, media_type="application/json", headers=headers)


@dataclass(frozen=True)
class Done:
    """A finished request. images: each encoded file, with its width and height."""

    request: StylizeRequest
    works: list[PhotoWork]
    images: list[tuple[bytes, Size]]
    timing: dict[str, float]

    @property
    def versions(self) -> list[str]:
        return [v.reference for v in self.works[0].options.versions.values()]

    def document(self, service: Service) -> dict[str, Any]:
        """The JSON answer: fields of StylizeAnswer."""
        rows = [
            {
                "image": base64.b64encode(image).decode(),
                "media_type": MEDIA[work.options.format],
                "encoding": work.key,
                "size": size,
                "photo_size": work.fitted.size,
                "faces": work.faces,
            }
            for work, (image, size) in zip(self.works, self.images, strict=True)
        ]
        return {
            "images": rows,
            "styles": self.versions,
            "base": service.info["fingerprint"],
            "mix": self.request.mix.to_dict(),
            "timing": self.timing,
        }

    def headers(self, service: Service) -> dict[str, str]:
        """Headers of the answer; those of a photo are of the first."""
        work, timing = self.works[0], self.timing
        faces = {} if work.faces is None else {"X-Faces": str(work.faces)}
        return {
            "X-Style-Version": ",".join(self.versions),
            "X-Base": service.info["fingerprint"],
            "X-Mix": json.dumps(self.request.mix.to_dict()),
            "X-Encoding": work.key,
            "X-Photo-Size": "x".join(map(str, work.fitted.size)),
            "X-Image-Size": "x".join(map(str, self.images[0][1])),
            **faces,
            "X-Encoding-Cached": str(int(timing["cached"])),
            "X-Batch-Size": str(int(timing["batch"])),
            **{f"X-{k.title()}-Seconds": f"{timing[k]:.4f}"
               for k in ("queue", "load", "encode", "decode", "total")},
        }  # fmt: skip


async def run(
    service: Service,
    body: StylizeRequest,
    owner: str,
    kind: ImageFormat,
    report: Report | None = None,
) -> Done:
    """Stylize the photos of a request. Raises ApiError. report: of ``Service.run_works``."""
    started = time.monotonic()
    with service.tracing.span("route"):
        body = await service.with_own_style(body)
        photos = await service.photos.of_request(body.photos, body.encodings, owner)
        works = await service.make_works(body, photos, kind)
    with service.tracing.span("engine"):
        results = await service.run_works(works, report)
        service.tracing.add_engine_parts([r for of_photo in results for r in of_photo])
    await service.photos.keep(photos, owner)
    with service.tracing.span("image"):
        images = await asyncio.gather(
            *(service.photos.in_thread(w.image, r) for w, r in zip(works, results, strict=True))
        )
    flat = [result for of_photo in results for result in of_photo]
    return Done(body, works, list(images), timing(flat, time.monotonic() - started))

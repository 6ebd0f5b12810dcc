"""POST /v1/stylize and POST /v1/encodings."""

from __future__ import annotations

import asyncio
import base64
import json
import time

from fastapi import APIRouter, Request, Response

from factory import __version__
from osasis.bundles.provenance import Provenance, UsedStyle
from osasis.errors import UserError
from osasis.mix import Mix
from serving.api.common import authorised, negotiate
from serving.bodies import SentFile, StylizeRequest, read_encodings, read_stylize
from serving.engine import ImageTask, Result
from serving.errors import ApiError
from serving.request_images import MEDIA, encode_pixels, photo_id
from serving.schemas import (
    ERRORS,
    STYLIZE_EXAMPLE,
    EncodingRow,
    EncodingsAnswer,
    EncodingsBody,
    StylizeAnswer,
    StylizeBody,
    body_docs,
)
from serving.service import Service

router = APIRouter(tags=["stylize"])
QUALITY = 95  # of JPEG and WebP
PICTURES = {m: {"schema": {"type": "string", "format": "binary"}} for m in MEDIA.values()}


@router.post(
    "/v1/stylize",
    response_model=StylizeAnswer,
    responses={200: {"content": PICTURES}, **ERRORS},
    openapi_extra=body_docs(StylizeBody, STYLIZE_EXAMPLE),
)
async def stylize(request: Request) -> Response:
    """Stylize photos, or photos sent before, with a mix. One image is answered as PNG, JPEG, WebP
    or JSON, by Accept; several images as JSON."""
    service, _ = authorised(request)
    limits = service.config.limits
    with service.admit_body(request):
        body = await read_stylize(request, limits, limits.images)
        count = len(body.photos) + len(body.encodings)
        media = negotiate(request, [*MEDIA.values(), "application/json"] if count == 1
                          else ["application/json"])  # fmt: skip
        with service.admission.admit_images(count):
            return await service.with_timeout(_stylize(service, body, media))


async def _stylize(service: Service, body: StylizeRequest, media: str) -> Response:
    started = time.monotonic()
    kind = next((k for k, m in MEDIA.items() if m == media), "PNG")
    photos = await service.read_photos(body)
    tasks = await service.make_tasks(body, photos, kind)
    results = await service.run_all(tasks)
    ids = [photo_id(photo.png) for photo in photos]
    for photo in dict(zip(ids, photos, strict=True)).values():
        await service.store_photo(photo)
    embed = body.provenance != "none"
    images = await asyncio.gather(
        *(
            asyncio.to_thread(
                encode_pixels, r.image, t.photo, provenance(service, t, r, kind), embed
            )
            for t, r in zip(tasks, results, strict=True)
        )
    )
    timing = _timing(results, time.monotonic() - started)
    headers = _headers(service, tasks[0], ids[0], body.mix, timing)
    if media != "application/json":
        return Response(images[0], media_type=media, headers=headers)
    rows = [
        {
            "image": base64.b64encode(image).decode(),
            "media_type": MEDIA[kind],
            "encoding": photo,
        }
        for image, photo in zip(images, ids, strict=True)
    ]
    answer = {
        "images": rows,
        "styles": [v.reference for v in tasks[0].versions.values()],
        "base": service.info["fingerprint"],
        "mix": body.mix.to_dict(),
        "timing": timing,
    }
    return Response(json.dumps(answer), media_type="application/json", headers=headers)


@router.post(
    "/v1/encodings",
    responses=ERRORS,
    openapi_extra=body_docs(EncodingsBody, {"images": ["iVBORw0KGgo..."], "fit": "crop"}),
)
async def encodings(request: Request) -> EncodingsAnswer:
    """Store photos and answer with their ids for later requests. With `style`, encode the photos
    now."""
    service, _ = authorised(request)
    negotiate(request, ["application/json"])
    with service.admit_body(request):
        photos, fit, style = await read_encodings(request, service.config.limits)
        with service.admission.admit_images(len(photos)):
            ids = await service.with_timeout(_store(service, photos, fit, style))
    return EncodingsAnswer(encodings=[EncodingRow(id=i) for i in ids])


async def _store(service: Service, files: list[SentFile], fit: str, style: str | None) -> list[str]:
    photos = [await service.read_photo(file, fit) for file in files]
    ids = [await service.store_photo(photo) for photo in photos]
    if style is not None:
        try:
            version = await asyncio.to_thread(service.catalog.resolve, style)
        except UserError as e:
            raise ApiError(422, str(e), field="style", value=style) from None
        await service.run_all([ImageTask(photo.png, None, {style: version}) for photo in photos])
    return ids


def provenance(service: Service, task: ImageTask, result: Result, kind: str) -> Provenance:
    """Provenance of a result. kind: a key of MEDIA."""
    assert task.mix is not None
    used = [task.versions[s.style] for s in task.mix.styles]
    return Provenance(
        code=__version__,
        styles=tuple(UsedStyle(reference=v.reference, fingerprint=v.fingerprint) for v in used),
        base=service.info["fingerprint"],
        mix=task.mix,
        arithmetic=result.arithmetic,
        fit=task.fit,  # type: ignore[arg-type]
        size="base",
        format=kind.lower(),  # type: ignore[arg-type]
        quality=None if kind == "PNG" else QUALITY,
        alpha=task.alpha,
        masks=task.mask_hashes,
        source=task.source,
    )


def _timing(results: list[Result], total: float) -> dict[str, float]:
    """The answer's ``timing``: seconds are the maximum over the images."""
    out = {
        name.removesuffix("_seconds"): round(max(getattr(r, name) for r in results), 4)
        for name in ("queue_seconds", "load_seconds", "encode_seconds", "decode_seconds")
    }
    cached = sum(r.cached for r in results)
    return {**out, "total": round(total, 4), "batch": max(r.batch for r in results),
            "cached": cached}  # fmt: skip


def _headers(
    service: Service, task: ImageTask, photo: str, mix: Mix, timing: dict[str, float]
) -> dict[str, str]:
    return {
        "X-Style-Version": ",".join(v.reference for v in task.versions.values()),
        "X-Base": service.info["fingerprint"],
        "X-Mix": json.dumps(mix.to_dict()),
        "X-Encoding": photo,
        "X-Encoding-Cached": str(int(timing["cached"])),
        "X-Batch-Size": str(int(timing["batch"])),
        **{f"X-{k.title()}-Seconds": f"{timing[k]:.4f}"
           for k in ("queue", "load", "encode", "decode", "total")},
    }  # fmt: skip

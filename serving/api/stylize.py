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
from serving.api.common import authorised, choose
from serving.bodies import SentFile, StylizeRequest, read_encodings, read_stylize
from serving.engine import Result, Work
from serving.errors import ApiError
from serving.keeper import KeptPhoto
from serving.request_images import MEDIA, encoded, photo_id
from serving.schemas import (
    ERRORS,
    MIX_EXAMPLE,
    EncodingsAnswer,
    EncodingsBody,
    StylizeAnswer,
    StylizeBody,
    body_docs,
)
from serving.service import Service, current, served_version

router = APIRouter(tags=["stylize"])
# Of JPEG and WebP.
QUALITY = 95
PICTURES = {m: {"schema": {"type": "string", "format": "binary"}} for m in MEDIA.values()}


@router.post(
    "/v1/stylize",
    response_model=StylizeAnswer,
    responses={200: {"content": PICTURES}, **ERRORS},
    openapi_extra=body_docs(
        StylizeBody, {"encodings": ["0f343b0931126a20f133d67c2b018a3b"], "mix": MIX_EXAMPLE}
    ),
)
async def stylize(request: Request) -> Response:
    """Stylize photos, or photos sent before, with a mix. One image is answered as PNG, JPEG, WebP
    or JSON, by Accept; several images as JSON."""
    service = current()
    authorised(service, request)
    with service.open(request):
        asked = await read_stylize(request, service.config.limits, service.config.limits.images)
        count = len(asked.photos) + len(asked.encodings)
        media = choose(request, [*MEDIA.values(), "application/json"] if count == 1
                       else ["application/json"])  # fmt: skip
        with service.admission.room(count):
            return await service.in_time(_stylized(service, asked, media))


async def _stylized(service: Service, asked: StylizeRequest, media: str) -> Response:
    started = time.monotonic()
    works = await service.works(asked)
    results = await service.run_all(works)
    for work in {photo_id(w.photo): w for w in works}.values():
        await service.keep_photo(KeptPhoto(work.photo, work.fit, work.source))
    kind = next((k for k, m in MEDIA.items() if m == media), "PNG")
    images = await asyncio.gather(
        *(
            asyncio.to_thread(encoded, r.picture, provenance(service, w, r, kind))
            for w, r in zip(works, results, strict=True)
        )
    )
    timing = timings(results, time.monotonic() - started)
    if media != "application/json":
        return Response(images[0], media_type=media, headers=_headers(service, works[0], timing))
    rows = [
        {
            "image": base64.b64encode(image).decode(),
            "media_type": MEDIA[kind],
            "encoding": photo_id(work.photo),
        }
        for image, work in zip(images, works, strict=True)
    ]
    body = {
        "images": rows,
        "styles": [v.reference for v in works[0].versions.values()],
        "base": service.info["fingerprint"],
        "mix": _mix(works[0]).to_dict(),
        "timing": timing,
    }
    headers = _headers(service, works[0], timing)
    return Response(json.dumps(body), media_type="application/json", headers=headers)


@router.post(
    "/v1/encodings",
    response_model=EncodingsAnswer,
    responses=ERRORS,
    openapi_extra=body_docs(EncodingsBody, {"images": ["iVBORw0KGgo..."], "fit": "crop"}),
)
async def encodings(request: Request) -> Response:
    """Keep photos and answer with ids that stand for the photos in later requests. With
    `style`, encode the photos at once."""
    service = current()
    authorised(service, request)
    choose(request, ["application/json"])
    with service.open(request):
        photos, fit, style = await read_encodings(request, service.config.limits)
        with service.admission.room(len(photos)):
            ids = await service.in_time(_kept(service, photos, fit, style))
    body = {"encodings": [{"id": i, "expires": "when newer photos need the room"} for i in ids]}
    return Response(json.dumps(body), media_type="application/json")


async def _kept(service: Service, photos: list[SentFile], fit: str, style: str | None) -> list[str]:
    kept = [KeptPhoto(await service.normalised(s, fit), fit, s.name) for s in photos]
    ids = [await service.keep_photo(photo) for photo in kept]
    if style is not None:
        await _encode_now(service, [photo.png for photo in kept], style)
    return ids


async def _encode_now(service: Service, photos: list[bytes], style: str) -> None:
    try:
        version = await asyncio.to_thread(service.catalog.resolve, style)
    except UserError as e:
        raise ApiError(422, str(e), field="style", value=style) from None
    works = [Work(p, None, {style: served_version(version)}) for p in photos]
    await service.run_all(works)


def provenance(service: Service, work: Work, result: Result, kind: str) -> Provenance:
    """What made an image. kind: of MEDIA."""
    mix = _mix(work)
    used = [work.versions[s.style] for s in mix.styles]
    return Provenance(
        code=__version__,
        styles=tuple(UsedStyle(reference=v.reference, fingerprint=v.fingerprint) for v in used),
        base=service.info["fingerprint"],
        mix=mix,
        arithmetic=result.arithmetic,
        fit=work.fit,  # type: ignore[arg-type]
        size="base",
        format=kind.lower(),  # type: ignore[arg-type]
        quality=None if kind == "PNG" else QUALITY,
        masks=work.mask_hashes,
        source=work.source,
    )


def _mix(work: Work) -> Mix:
    assert work.mix is not None
    return work.mix


def timings(results: list[Result], total: float) -> dict[str, float]:
    """Seconds of each part, the slowest image's where there are several."""
    out = {
        name.removesuffix("_seconds"): round(max(getattr(r, name) for r in results), 4)
        for name in ("queue_seconds", "load_seconds", "encode_seconds", "decode_seconds")
    }
    cached = sum(r.cached for r in results)
    return {**out, "total": round(total, 4), "batch": max(r.batch for r in results),
            "cached": cached}  # fmt: skip


def _headers(service: Service, work: Work, timing: dict[str, float]) -> dict[str, str]:
    return {
        "X-Style-Version": ",".join(v.reference for v in work.versions.values()),
        "X-Base": service.info["fingerprint"],
        "X-Mix": json.dumps(_mix(work).to_dict()),
        "X-Encoding": photo_id(work.photo),
        "X-Encoding-Cached": str(int(timing["cached"])),
        "X-Batch-Size": str(int(timing["batch"])),
        **{f"X-{k.title()}-Seconds": f"{timing[k]:.4f}"
           for k in ("queue", "load", "encode", "decode", "total")},
    }  # fmt: skip

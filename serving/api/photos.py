"""POST /v1/encodings and POST /v1/faces: photos that are stored for later requests."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from osasis.errors import UserError
from osasis.images.geometry import Size, SquarePlacement
from osasis.images.photo_options import CropBox, PhotoOptions
from osasis.segmenting.prompts import Prompt
from serving.api.common import authorised, negotiate
from serving.bodies import read_encodings, read_faces, read_mask_request
from serving.engine import ImageTask
from serving.errors import ApiError
from serving.photo_store import RequestPhoto
from serving.schemas import (
    ERRORS,
    EncodingRow,
    EncodingsAnswer,
    EncodingsBody,
    Face,
    FacesAnswer,
    FacesBody,
    FacesRow,
    MasksBody,
    body_docs,
)
from serving.service import Service

router = APIRouter(tags=["photos"])
PHOTO = "iVBORw0KGgo..."
PICTURE = {"schema": {"type": "string", "format": "binary"}}


@router.post(
    "/v1/encodings", responses=ERRORS, openapi_extra=body_docs(EncodingsBody, {"images": [PHOTO]})
)
async def encodings(request: Request) -> EncodingsAnswer:
    """Store photos and answer with their ids for later requests of the same API key. With `style`,
    encode the photos now."""
    service, owner = authorised(request)
    negotiate(request, ["application/json"])
    with service.admit_body() as reserve:
        sent, body = await read_encodings(request, service.config.limits, reserve)
        with service.admission.admit_images(len(sent)):
            photos = await service.photos.of_request(sent, [], owner)
            sizes = await service.with_timeout(_store(service, photos, owner, body))
    rows = [EncodingRow(id=p.key, size=s) for p, s in zip(photos, sizes, strict=True)]
    return EncodingsAnswer(encodings=rows)


async def _store(
    service: Service, photos: list[RequestPhoto], owner: str, body: EncodingsBody
) -> list[Size]:
    """Store photos, and encode them where the body names a style. Returns their sizes."""
    sizes = [await service.photos.size(photo) for photo in photos]
    await service.photos.keep(photos, owner)
    if body.style is not None:
        try:
            version = await asyncio.to_thread(service.catalog.resolve, body.style)
        except UserError as e:
            raise ApiError(422, str(e), field="style", value=body.style) from None
        options = PhotoOptions(fit=body.fit)
        fitted = await service.fit(photos, options, keep_alpha=True)
        squares = [square for photo in fitted for square in photo.squares]
        with service.admission.count_images(max(0, len(squares) - len(photos))):
            await service.run_all([ImageTask(s, None, {body.style: version}) for s in squares])
    return sizes


@router.post("/v1/faces", responses=ERRORS, openapi_extra=body_docs(FacesBody, {"images": [PHOTO]}))
async def faces(request: Request) -> FacesAnswer:
    """Find the faces that fit `align` stylizes, and store the photos for later requests."""
    service, owner = authorised(request)
    negotiate(request, ["application/json"])
    with service.admit_body() as reserve:
        sent, keys = await read_faces(request, service.config.limits, reserve)
        with service.admission.admit_images(len(sent) + len(keys)):
            photos = await service.photos.of_request(sent, keys, owner)
            found = await service.with_timeout(_find_faces(service, photos, owner))
    return FacesAnswer(photos=found)


@router.post(
    "/v1/masks",
    response_class=Response,
    responses={200: {"content": {"image/png": PICTURE}}, **ERRORS},
    openapi_extra=body_docs(MasksBody, {"images": [PHOTO], "region": "background"}),
)
async def masks(request: Request) -> Response:
    """Propose the mask of a region of one photo, and store the photo for later requests: a grey PNG
    of the photo's size, white where the region is. Points or a box say where the subject is, a text
    says what it is."""
    service, owner = authorised(request)
    negotiate(request, ["image/png"])
    with service.admit_body() as reserve:
        sent, body = await read_mask_request(request, service.config.limits, reserve)
        with service.admission.admit_images(1):
            (photo,) = await service.photos.of_request(sent, body.encodings, owner)
            prompt = Prompt(body.points, body.box, body.text)
            mask = await service.with_timeout(service.photos.mask(photo, body.region, prompt))
            await service.photos.keep([photo], owner)
    return Response(mask, media_type="image/png", headers={"X-Encoding": photo.key})


async def _find_faces(service: Service, photos: list[RequestPhoto], owner: str) -> list[FacesRow]:
    rows = []
    for photo in photos:
        size, places = await service.photos.faces(photo)
        found = [_face(place, size) for place in places]
        rows.append(FacesRow(encoding=photo.key, size=size, faces=found))
    await service.photos.keep(photos, owner)
    return rows


def _face(place: SquarePlacement, photo: Size) -> Face:
    x, y, side = place.upright_box(photo)
    return Face(crop=CropBox(x=x, y=y, side=side), corners=place.corners())

"""POST /v1/inspect: how an image was made."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from osasis.bundles.provenance import read_provenance
from osasis.errors import ImageError
from osasis.validation import InvalidInputError
from serving.api.common import authorised
from serving.bodies import read_picture
from serving.errors import ApiError
from serving.request_images import check_header
from serving.schemas import ERRORS, InspectAnswer, picture_docs

router = APIRouter(tags=["stylize"])


@router.post("/v1/inspect", responses=ERRORS, openapi_extra=picture_docs())
async def inspect(request: Request) -> InspectAnswer:
    """The provenance that an image contains: its mix, styles, base and photo's name."""
    service, _ = authorised(request)
    limits = service.config.limits
    with service.admit_body() as reserve:
        picture = await read_picture(request, limits, reserve)
        check_header(picture.data, picture.field, limits)
        return InspectAnswer(provenance=await service.photos.in_thread(_read, picture.data))


def _read(data: bytes) -> dict[str, Any] | None:
    try:
        found = read_provenance(data)
    except (ImageError, InvalidInputError) as e:
        raise ApiError(422, str(e), field="image") from None
    return None if found is None else found.to_dict()

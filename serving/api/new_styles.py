"""POST /v1/styles: styles made from an image."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request

from factory.core.bases import NAME_RULE, check_name
from factory.core.stores import open_store
from factory.registry import CANDIDATE, StyleVersion
from osasis.bundles.files import STYLE_JSON, read_json
from osasis.errors import UserError
from osasis.images.kinds import HEAD_BYTES, kind_of
from serving.api.common import authorised, negotiate
from serving.bodies import read_new_style
from serving.errors import ApiError
from serving.forms import SentFile
from serving.schemas import ERRORS, NewStyleAnswer, NewStyleBody, body_docs
from serving.service import Service

router = APIRouter(tags=["styles"])
EXAMPLE = {"image": "iVBORw0KGgo...", "name": "my-oil", "keep": "registered"}


@router.post("/v1/styles", responses=ERRORS, openapi_extra=body_docs(NewStyleBody, EXAMPLE))
async def new_style(request: Request) -> NewStyleAnswer:
    """Make a style from one image, without training, and answer with its name for mixes.

    By default it is kept for some time after its last use. `keep: registered` registers it as a
    candidate under `name`; `keep: training` also stores the image for the operator to train it."""
    started = time.monotonic()
    service, _ = authorised(request)
    negotiate(request, ["application/json"])
    with service.admit_body() as reserve:
        image, body = await read_new_style(request, service.config.limits, reserve)
        if body.keep != "temporary":
            _check_name(body.name)
        with service.admission.admit_images(1):
            made = await service.with_timeout(service.make_style(image))
            version = made
            if body.keep == "registered":
                version = await asyncio.to_thread(_register, service, made, body.name or "")
            elif body.keep == "training":
                await asyncio.to_thread(_request_training, service, image, body.name or "")
    return NewStyleAnswer(
        id=version.style,
        reference=version.reference,
        kept_seconds=None if body.keep == "registered" else service.config.made_age,
        seconds=round(time.monotonic() - started, 3),
    )


def _check_name(name: str | None) -> None:
    if name is None:
        raise ApiError(422, "a style that is kept needs a name", field="name", allowed=NAME_RULE)
    try:
        check_name(name, "style")
    except UserError as e:
        raise ApiError(422, str(e), field="name", value=name) from None


def _register(service: Service, made: StyleVersion, name: str) -> StyleVersion:
    """Register a made style as a candidate. Raises ApiError."""
    info: dict[str, Any] = read_json(made.folder() / STYLE_JSON, "send the style image again")
    try:
        return service.catalog.registry.register(
            name,
            made.folder(),
            fingerprint=made.fingerprint,
            base=made.base,
            params=info["settings"],
            history=[],
            metrics={},
            tags={"base_name": info["base_name"]},
            alias=CANDIDATE,
        )
    except UserError as e:
        raise ApiError(422, str(e), field="name", value=name) from None


def _request_training(service: Service, image: SentFile, name: str) -> None:
    """Store a style image in the catalog of requested styles. Raises ApiError for a taken name."""
    kind = (kind_of(image.data[:HEAD_BYTES]) or "png").lower()
    store = open_store(service.home.shared(service.home.requested_styles))
    for other in store.list():
        if other.rpartition(".")[0] == name and store.read(other) != image.data:
            raise ApiError(422, f"another image is stored as {name!r}", field="name", value=name,
                           allowed="a name that is not taken")  # fmt: skip
    store.write(f"{name}.{kind}", image.data)

"""The part of OpenAI's image API that its clients use for editing: images/edits and models.

https://platform.openai.com/docs/api-reference/images/createEdit
"""

from __future__ import annotations

import base64
import io
import re
import time
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Request
from PIL import Image, ImageOps
from pydantic import BaseModel, Field

from osasis.bundles.provenance import encode_image
from osasis.choices import Fit, ImageFormat
from osasis.errors import UserError
from osasis.images.decoding import load_sized, png_bytes
from osasis.images.geometry import Size
from osasis.validation import InputModel, Problem
from serving.api.common import authorised, negotiate
from serving.api.stylize import Done, run
from serving.bodies import StylizeRequest, make_request, validated
from serving.body_bytes import read_body
from serving.errors import ApiError
from serving.forms import SentBody, parse_body, reject_other_files
from serving.request_images import MEDIA, check_header
from serving.schemas import ERRORS, StylizeBody
from serving.service import Service

router = APIRouter(prefix="/v1", tags=["openai"])
MASK = "edit"
_SIZE = re.compile(r"([1-9]\d{1,3})x([1-9]\d{1,3})")


class EditBody(InputModel):
    """Fields of an edit. Those without an effect are accepted: clients send them."""

    subject: ClassVar[str] = "body"

    model: str = Field(
        min_length=1, max_length=400, description="a style, or several as a+b, in equal parts"
    )
    prompt: str = Field("", max_length=32_000, description="without effect: the style is `model`")
    n: Annotated[int, Field(ge=1, le=10)] = Field(
        1, description="number of images; they are equal, as a mix has no random draws"
    )
    size: str = Field(
        "auto", description="auto: the photo's size; WIDTHxHEIGHT: cropped to this shape and scaled"
    )
    response_format: Literal["b64_json", "url"] = Field(
        "b64_json", description="`url` gives a data URL; the server stores no answers"
    )
    output_format: ImageFormat = Field("png", description="format of the images")
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = Field(
        None, description="without effect"
    )
    fit: Fit = Field("crop", description="as in /v1/stylize; not in OpenAI's API")
    detail: bool = Field(False, description="as in /v1/stylize; not in OpenAI's API")
    quality: str | None = Field(None, description="without effect")
    background: str | None = Field(None, description="without effect")
    input_fidelity: str | None = Field(None, description="without effect")
    moderation: str | None = Field(None, description="without effect")
    user: str | None = Field(None, description="without effect")

    def cross_problems(self) -> list[Problem]:
        if self.size == "auto" or _SIZE.fullmatch(self.size):
            return []
        return [Problem("size", self.size, f"size is {self.size[:40]!r}", "auto or WIDTHxHEIGHT")]

    @property
    def shape(self) -> Size | None:
        """Width and height of the images; None for the photo's."""
        found = _SIZE.fullmatch(self.size)
        return None if found is None else (int(found[1]), int(found[2]))


class EditRow(BaseModel):
    b64_json: str | None = Field(None, description="the image, base64")
    url: str | None = Field(None, description="the image as a data URL")


class EditAnswer(BaseModel):
    created: int = Field(description="time of the answer, seconds since 1970")
    data: list[EditRow] = Field(description="the images")
    output_format: ImageFormat = Field(description="format of the images")
    size: str = Field(description="WIDTHxHEIGHT of the images")


class ModelRow(BaseModel):
    id: str = Field(description="the style's id")
    object: Literal["model"] = Field("model", description="always model")
    created: int = Field(description="time of registration, seconds since 1970")
    owned_by: str = Field("style-factory", description="always style-factory")


class ModelsAnswer(BaseModel):
    object: Literal["list"] = Field("list", description="always list")
    data: list[ModelRow] = Field(description="every style that can be used")


def _form() -> dict[str, Any]:
    """``requestBody`` of an edit."""
    schema = EditBody.model_json_schema()
    picture = {"type": "string", "format": "binary"}
    schema["properties"] |= {"image": picture, "mask": picture}
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


@router.post(
    "/images/edits", responses=ERRORS, openapi_extra=_form(), response_model_exclude_none=True
)
async def edit(request: Request) -> EditAnswer:
    """Stylize one photo, as OpenAI's clients ask for an edit. With `mask`, the style shows where
    the mask is transparent."""
    service, owner = authorised(request)
    negotiate(request, ["application/json"])
    limits = service.config.limits
    with service.admit_body() as reserve:
        sent = await parse_body(request, await read_body(request, limits, reserve), limits)
        body = validated(EditBody, {**sent.fields, **_numbers(sent.fields)})
        asked = await service.photos.in_thread(_request, service, body, sent)
        with service.admission.admit_images(1):
            done = await service.with_timeout(run(service, asked, owner, body.output_format))
            return await service.photos.in_thread(_answer, done, body)


def _numbers(fields: dict[str, Any]) -> dict[str, int]:
    """Fields of a form that are whole numbers."""
    names = ("n", "output_compression")
    return {n: int(fields[n]) for n in names if str(fields.get(n)).isdecimal()}


def _request(service: Service, body: EditBody, sent: SentBody) -> StylizeRequest:
    """The request of an edit. Raises ApiError."""
    photos, masks = sent.files.pop("image", []), sent.files.pop("mask", [])
    reject_other_files(sent.files, "image and mask")
    for name, files, most in (("image", photos, 1), ("mask", masks, 1)):
        if len(files) > most or (name == "image" and not files):
            raise ApiError(422, f"{len(files)} files {name}", field=name, value=len(files),
                           allowed="one file")  # fmt: skip
    mask = MASK if masks else None
    mix = {"styles": [{"style": name.strip(), "mask": mask} for name in body.model.split("+")]}
    found = {MASK: _our_mask(masks[0].data, service)} if masks else {}
    plain = validated(StylizeBody, {"mix": mix, "fit": body.fit, "detail": body.detail})
    return make_request(plain, photos, found, service.config.limits, 1)


def _our_mask(data: bytes, service: Service) -> bytes:
    """A mask that is white where OpenAI's is transparent. Raises ApiError."""
    check_header(data, "mask", service.config.limits)
    try:
        image, _ = load_sized(data, name="mask", alpha=True)
    except UserError as e:
        raise ApiError(422, str(e), field="mask") from None
    if image.mode != "RGBA":
        raise ApiError(422, "the mask has no transparent pixel", field="mask",
                       allowed="a PNG that is transparent where the style is to show")  # fmt: skip
    return png_bytes(image.getchannel("A").point([255 - value for value in range(256)]))


def _answer(done: Done, body: EditBody) -> EditAnswer:
    data, size = done.images[0]
    if body.shape is not None and body.shape != size:
        # Without provenance: no command makes an image of this shape.
        with Image.open(io.BytesIO(data)) as image:
            fitted = ImageOps.fit(image, body.shape, Image.Resampling.LANCZOS)
        told = done.works[0].provenance([])
        data, size = encode_image(fitted, told, embed=False), body.shape
    text = base64.b64encode(data).decode()
    url = f"data:{MEDIA[body.output_format]};base64,{text}"
    row = EditRow(b64_json=text) if body.response_format == "b64_json" else EditRow(url=url)
    return EditAnswer(created=int(time.time()), data=[row] * body.n,
                      output_format=body.output_format, size=f"{size[0]}x{size[1]}"
                      )  # fmt: skip


@router.get("/models", responses=ERRORS)
async def models(request: Request) -> ModelsAnswer:
    """Every style that can be used, as OpenAI's clients list models."""
    service, _ = authorised(request)
    usable = [s.version for s in service.catalog.styles.values() if s.problem is None]
    return ModelsAnswer(data=[ModelRow(id=v.style, created=v.created_ms // 1000) for v in usable])


@router.get("/models/{model}", responses=ERRORS)
async def model(model: str, request: Request) -> ModelRow:
    """One style, as OpenAI's clients retrieve a model."""
    service, _ = authorised(request)
    found = service.catalog.styles.get(model)
    if found is None or found.problem is not None:
        raise ApiError(404, f"there is no style {model[:64]!r}", field="model", value=model,
                       allowed="GET /v1/models lists them")  # fmt: skip
    return ModelRow(id=model, created=found.version.created_ms // 1000)

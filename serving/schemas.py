"""Models of request and response bodies; OpenAPI is generated from them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, Field

from factory.core.bases import NAME_RULE
from osasis.choices import Alpha, Fit, MaskRegion, NoFace, OutputSize, Provenance
from osasis.images.photo_options import CropBox, PhotoOptions
from osasis.mix import Mix
from osasis.segmenting.prompts import Box, Points, Text
from osasis.validation import InputModel
from serving.submissions import Stage

JobState = Literal["queued", "running", "done", "failed", "cancelled"]


class StylizeBody(PhotoOptions):
    subject: ClassVar[str] = "body"

    images: list[str] = Field(default_factory=list, description="photos, base64", max_length=1024)
    encodings: list[str] = Field(
        default_factory=list,
        description="ids of photos, from `POST /v1/encodings` or an earlier answer",
        max_length=1024,
    )
    masks: dict[str, str] = Field(
        default_factory=dict,
        description="grey images by the names in the mix, base64. Masks that the mix names "
        "`subject`, `background`, `face` or `hair`, and that are not sent, are proposed for each "
        "photo",
    )
    style_image: str | None = Field(
        None,
        description="an image, base64, from which a style is made for this request; the mix names "
        "it `image`, and may be left out where it is the only style",
    )
    mix: Mix = Field(description="parameters of the stylization")
    provenance: Provenance = Field(
        "style",
        description="what the images tell: how they were made and the photo's file name; `full`: "
        "the file name with its folders, as sent; `none`: nothing",
    )


class JobBody(StylizeBody):
    webhook: str | None = Field(
        None,
        max_length=2000,
        description="address that gets a POST of the job when it has ended; the server's setting "
        "`webhooks` lists what is allowed",
    )


class EncodingsBody(InputModel):
    subject: ClassVar[str] = "body"

    images: list[str] = Field(default_factory=list, max_length=1024, description="photos, base64")
    style: str | None = Field(
        None,
        max_length=200,
        description="encode the photos now, with this style's steps; null: at the first use",
    )
    fit: Fit = Field("crop", description="with `style`: the fit of the photos that are encoded")


class FacesBody(InputModel):
    subject: ClassVar[str] = "body"

    images: list[str] = Field(default_factory=list, max_length=1024, description="photos, base64")
    encodings: list[str] = Field(
        default_factory=list, max_length=1024, description="ids of stored photos"
    )


class MasksBody(FacesBody):
    region: MaskRegion = Field("subject", description="what the mask shows")
    points: Points = Field(
        (), description="points on the subject, as shares of the photo's width and height"
    )
    box: Box | None = Field(
        None,
        description="left, top, right and bottom of a box around the subject, as shares of the "
        "photo's width and height",
    )
    text: Text | None = Field(
        None, description="what the subject is; needs a server with `segmenter.clip`"
    )


class NewStyleBody(InputModel):
    subject: ClassVar[str] = "body"

    image: str | None = Field(None, description="the style image, base64")
    name: str | None = Field(
        None, max_length=200, description="the style's id, where it is kept: " + NAME_RULE
    )
    keep: Literal["temporary", "registered", "training"] = Field(
        "temporary",
        description="`temporary`: for some time after its last use; `registered`: as a candidate "
        "in the registry; `training`: temporary, and its image is added to the folder "
        "`requested-styles` of the home, a catalog for `style-factory train`",
    )


class NewStyleAnswer(BaseModel):
    id: str = Field(description="name of the style, for mixes")
    reference: str = Field(description="name and version, such as `my-oil:1`")
    kept_seconds: float | None = Field(
        description="time after its last use when the style is deleted; null: never"
    )
    seconds: float = Field(description="time that making it took")


class EncodingRow(BaseModel):
    id: str = Field(description="id of the photo, for later calls")
    size: tuple[int, int] = Field(description="width and height of the photo in pixels")
    expires: str = Field(
        "when newer photos need the memory", description="when the photo is dropped, as text"
    )


class EncodingsAnswer(BaseModel):
    encodings: list[EncodingRow] = Field(description="one object per photo, in order")


class Face(BaseModel):
    crop: CropBox = Field(description="an upright square around the face, for `crop`")
    corners: list[tuple[float, float]] = Field(
        description="x and y of the corners of the square that fit `align` stylizes: upper left, "
        "upper right, lower right, lower left"
    )


class FacesRow(BaseModel):
    encoding: str = Field(description="id of the photo, for later calls")
    size: tuple[int, int] = Field(description="width and height of the photo in pixels")
    faces: list[Face] = Field(description="the faces that fit `align` finds, from left to right")


class FacesAnswer(BaseModel):
    photos: list[FacesRow] = Field(description="one object per photo, in order")


class ImageRow(BaseModel):
    image: str = Field(description="the image, base64")
    media_type: str = Field(description="`image/png`, `image/jpeg` or `image/webp`")
    encoding: str = Field(description="id of the photo, for later calls")
    size: tuple[int, int] = Field(description="width and height of the image in pixels")
    photo_size: tuple[int, int] = Field(description="width and height of the photo in pixels")
    faces: int | None = Field(description="with fit `align`: number of stylized faces, else null")


class StylizeAnswer(BaseModel):
    images: list[ImageRow] = Field(description="one object per photo, in order")
    styles: list[str] = Field(description="the versions that made the images, such as `oil:3`")
    base: str = Field(description="fingerprint of the base")
    mix: dict[str, Any] = Field(description="the mix with its defaults")
    timing: dict[str, float] = Field(
        description="seconds of `queue`, `load`, `encode`, `decode` and `total`; images of the "
        "`batch`; photos whose encoding was `cached`"
    )


class ProgressEvent(BaseModel):
    """Data of a server-sent event `progress`."""

    image: int = Field(description="index of the photo")
    stage: Stage = Field(
        description="`load` while styles are loaded, `queue` while others are computed, `encode`, "
        "`decode`"
    )
    place: int = Field(description="in the stage `queue`: number of squares before this one")
    step: int = Field(description="finished steps of the stage")
    steps: int = Field(description="all steps of the stage; 0 before the first")
    seconds_left: float | None = Field(
        description="estimate of the seconds until the stage ends; null: unknown"
    )


class InspectAnswer(BaseModel):
    provenance: dict[str, Any] | None = Field(
        description="how the image was made, with its `mix`; null: the file does not tell"
    )


class StyleRow(BaseModel):
    id: str = Field(description="the style's id")
    version: int = Field(description="number of the served version")
    reference: str = Field(description="id and version, such as `oil:3`")
    aliases: list[str] = Field(description="`champion`, `candidate` or none")
    tags: list[str] = Field(description="tags of the catalog entry")
    licence: str = Field(description="licence note of the catalog entry")
    created_ms: int = Field(description="time of registration, milliseconds since 1970")
    preview: str = Field(description="path of the style image")
    usable: bool = Field(description="whether requests may name the style")
    problem: str | None = Field(None, description="why the style is not usable")


class StylesAnswer(BaseModel):
    styles: list[StyleRow] = Field(description="one page of styles, by id")
    total: int = Field(description="number of styles that match")
    offset: int = Field(description="number of styles before this page")
    next_offset: int | None = Field(None, description="`offset` of the next page; null: no more")


class JobAnswer(BaseModel):
    id: str = Field(description="id of the job")
    state: JobState = Field(description="state of the job")
    images: int = Field(description="number of requested images")
    done: int = Field(description="number of finished images")
    message: str | None = Field(None, description="why the job failed")
    results: list[str] = Field(default_factory=list, description="paths of the finished images")
    stage: Stage = Field("load", description="what happens to the photos that are computed now")
    step: int = Field(0, description="finished steps of the stage `encode` or `decode`")
    steps: int = Field(0, description="all steps of the stage")


class ErrorAnswer(BaseModel):
    error: dict[str, Any]


STYLIZE_EXAMPLE = {
    "encodings": ["0f343b0931126a20f133d67c2b018a3b"],
    "mix": {"styles": [{"style": "oil", "weight": 1.0}], "strength": 0.8},
}

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "the request is malformed, or the body is not valid JSON or not a valid form",
        401: "the API key is missing or unknown",
        404: "the path, style, job or encoding does not exist",
        406: "the server offers none of the types in Accept",
        405: "the path does not take this method",
        408: "the body did not arrive in time, or too slowly",
        413: "the body or an image exceeds limits.body_bytes or limits.pixels",
        415: "the server does not read this type of body or image",
        422: "a field is wrong; the answer names the field",
        429: "the key's requests of this minute are used up; see Retry-After",
        503: "the server is busy or closing, or a style cannot be loaded; a later attempt may "
        "succeed if there is a Retry-After",
        504: "the work took longer than limits.seconds",
    }.items()
}


def body_docs(body: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """``requestBody`` of an operation that takes JSON or a form.

    FastAPI does not generate it, because routes read bodies themselves to limit their size.
    """
    form: dict[str, Any] = {
        "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "style_image": {"type": "string", "format": "binary"},
        "name": {"type": "string"},
        "keep": {"type": "string", "enum": ["temporary", "registered", "training"]},
        "encoding": {"type": "array", "items": {"type": "string"}},
        "mix": {"type": "string", "description": "the mix, JSON"},
        "fit": {"type": "string", "enum": list(get_args(Fit))},
        "crop": {"type": "string", "description": "X,Y,SIDE in pixels"},
        "size": {"type": "string", "enum": list(get_args(OutputSize))},
        "detail": {"type": "string", "enum": ["true", "false"]},
        "no_face": {"type": "string", "enum": list(get_args(NoFace))},
        "alpha": {"type": "string", "enum": list(get_args(Alpha))},
        "provenance": {"type": "string", "enum": list(get_args(Provenance))},
        "style": {"type": "string"},
        "region": {"type": "string", "enum": list(get_args(MaskRegion))},
        "points": {"type": "string", "description": "[[X, Y], ...], JSON"},
        "box": {"type": "string", "description": "[LEFT, TOP, RIGHT, BOTTOM], JSON"},
        "text": {"type": "string"},
    }
    if body is JobBody:
        form["webhook"] = {"type": "string"}
    names = {
        EncodingsBody: {"fit", "style", "image"},
        FacesBody: {"image", "encoding"},
        MasksBody: {"image", "encoding", "region", "points", "box", "text"},
        NewStyleBody: {"image", "name", "keep"},
    }.get(body, {*form} - {"style", "region", "points", "box", "text", "name", "keep"})
    schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schema, "example": example},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {k: v for k, v in form.items() if k in names},
                        "description": "masks are files named mask.NAME",
                    }
                },
            },
        }
    }


def picture_docs() -> dict[str, Any]:
    """``requestBody`` of an operation that takes a form with one picture."""
    image = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"image": image}, "required": ["image"]}
    content = {"multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


def document_keys(schema: dict[str, Any]) -> None:
    """Add the key's security schemes to an OpenAPI document and to each operation that takes it."""
    schema["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, operations in schema["paths"].items():
        if path.startswith("/v1/") and not path.endswith("/preview"):
            for operation in operations.values():
                operation["security"] = [{"bearer": []}, {"header": []}]


def component_schemas() -> dict[str, Any]:
    """Schemas referenced by the request bodies."""
    found: dict[str, Any] = {}
    for body in (JobBody, EncodingsBody, FacesBody, MasksBody, NewStyleBody):
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
        found |= schema.get("$defs", {})
    return found

"""Bodies of requests and answers, as the OpenAPI shows them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from osasis.mix import Mix
from osasis.validation import InputModel

Fit = Literal["crop", "pad", "resize"]


class StylizeBody(InputModel):
    images: list[str] = Field(default_factory=list, description="photos, base64", max_length=1024)
    encodings: list[str] = Field(
        default_factory=list, description="ids that POST /v1/encodings gave", max_length=1024
    )
    masks: dict[str, str] = Field(default_factory=dict, description="grey pictures, base64")
    mix: Mix
    fit: Fit = "crop"


class EncodingsBody(InputModel):
    images: list[str] = Field(min_length=1, max_length=1024, description="photos, base64")
    fit: Fit = "crop"
    style: str | None = Field(
        None, max_length=200, description="encode at once, as this style wants it"
    )


class EncodingRow(BaseModel):
    id: str
    expires: str = "when newer photos need the room"


class EncodingsAnswer(BaseModel):
    encodings: list[EncodingRow]


class ImageRow(BaseModel):
    image: str = Field(description="base64")
    media_type: str
    encoding: str = Field(description="id of the photo, for later calls")


class StylizeAnswer(BaseModel):
    images: list[ImageRow]
    styles: list[str] = Field(description="the versions that made the images")
    base: str
    mix: dict[str, Any]
    timing: dict[str, float]


class StyleRow(BaseModel):
    id: str
    version: int
    reference: str
    aliases: list[str]
    tags: list[str]
    licence: str
    created_ms: int
    preview: str
    usable: bool
    problem: str | None = None


class StylesAnswer(BaseModel):
    styles: list[StyleRow]
    total: int
    offset: int
    next_offset: int | None = None


class JobAnswer(BaseModel):
    id: str
    state: Literal["queued", "running", "done", "failed"]
    images: int
    done: int
    message: str | None = None
    results: list[str] = Field(default_factory=list, description="where each image is")


class ErrorAnswer(BaseModel):
    error: dict[str, Any]


MIX_EXAMPLE = {"styles": [{"style": "oil", "weight": 1.0}], "strength": 0.8}

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "the body is no valid JSON or form",
        401: "an API key is missing or not known",
        404: "there is no such thing",
        406: "none of the types in Accept can be had",
        408: "the body did not arrive in time",
        413: "too many bytes or pixels",
        415: "a type of body or picture that is not read",
        422: "a field is wrong; the answer names it",
        429: "this key's requests of the minute are used up; see Retry-After",
        503: "busy or closing; see Retry-After",
        504: "it took longer than is allowed",
    }.items()
}


def body_docs(body: type[BaseModel], example: dict[str, Any], files: str = "image") -> dict:
    """``requestBody`` of an operation that takes JSON or a form; bodies are read by hand, so
    that their size is counted while they arrive."""
    form: dict[str, Any] = {
        files: {"type": "array", "items": {"type": "string", "format": "binary"}},
        "encoding": {"type": "array", "items": {"type": "string"}},
        "mix": {"type": "string", "description": "the mix, JSON"},
        "fit": {"type": "string", "enum": ["crop", "pad", "resize"]},
        "style": {"type": "string"},
    }
    names = {"fit", "style", files} if body is EncodingsBody else {*form} - {"style"}
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


def document_keys(schema: dict[str, Any]) -> None:
    """Say in an OpenAPI document which operations take a key, and how."""
    schema["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, operations in schema["paths"].items():
        if path.startswith("/v1/") and not path.endswith("/preview"):
            for operation in operations.values():
                operation["security"] = [{"bearer": []}, {"header": []}]


def component_schemas() -> dict[str, Any]:
    """Schemas that the request bodies refer to."""
    found: dict[str, Any] = {}
    for body in (StylizeBody, EncodingsBody):
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
        found |= schema.get("$defs", {})
    return found

"""Reads request bodies: JSON with base64 images, or multipart forms, within the size limit."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartParser

from osasis.choices import Alpha, Provenance
from osasis.mix import Mix
from osasis.validation import InputModel, InvalidInputError
from serving.config import Limits
from serving.errors import ApiError, invalid
from serving.schemas import EncodingsBody, StylizeBody

M = TypeVar("M", bound=InputModel)
# Characters of a file name that provenance keeps, from the end.
MAX_NAME = 1024
CONTENT_TYPES = ("application/json", "multipart/form-data")


@dataclass(frozen=True)
class SentFile:
    """An image file of a request.

    field: its path in the request, for errors. name: file name as sent, or "".
    """

    field: str
    data: bytes
    name: str = ""


@dataclass
class StylizeRequest:
    """A validated body of POST /v1/stylize or /v1/jobs; style names are not checked yet."""

    mix: Mix
    photos: list[SentFile] = field(default_factory=list)
    encodings: list[str] = field(default_factory=list)
    masks: dict[str, bytes] = field(default_factory=dict)
    fit: str = "crop"
    alpha: Alpha | None = None
    provenance: Provenance = "style"

    def keeps_alpha(self, kind: str) -> bool:
        """Whether images of a format (a key of MEDIA) keep a photo's transparency. Raises ApiError
        where the format has none, but is to keep it."""
        if kind == "JPEG" and self.alpha == "keep":
            raise ApiError(422, "alpha is keep, but JPEG has no transparency", field="alpha",
                           value="keep", allowed="drop, or Accept: image/png or image/webp"
                           )  # fmt: skip
        return self.alpha != "drop" and kind != "JPEG"


async def read_stylize(request: Request, limits: Limits, max_images: int) -> StylizeRequest:
    """Read the body of POST /v1/stylize and /v1/jobs. Raises ApiError."""
    data, files = await _read(request, limits)
    if isinstance(data.get("mix"), str):
        data["mix"] = _json(data["mix"], "mix")
    body = _validated(StylizeBody, data)
    photos = files.pop("image", []) + _images(body.images)
    masks = {name: _base64(text, f"masks.{name}") for name, text in body.masks.items()}
    for name in list(files):
        if name.startswith("mask."):
            masks[name.removeprefix("mask.")] = files.pop(name)[0].data
    _reject_other_files(files, "image and mask.NAME")
    count = len(photos) + len(body.encodings)
    if not 1 <= count <= max_images:
        raise ApiError(422, f"{count} images", field="images", value=count,
                       allowed=f"1 to {max_images}, photos and encodings together")  # fmt: skip
    mix = body.mix
    _check_limits(mix, limits)
    named = {s.mask for s in mix.styles if s.mask}
    if missing := sorted(named - set(masks)):
        raise ApiError(422, f"the mix names mask {missing[0]!r}, but no such mask was sent",
                       field="masks", value=missing[0], allowed=sorted(masks))  # fmt: skip
    return StylizeRequest(
        mix,
        photos,
        body.encodings,
        {k: v for k, v in masks.items() if k in named},
        body.fit,
        body.alpha,
        body.provenance,
    )


async def read_encodings(
    request: Request, limits: Limits
) -> tuple[list[SentFile], str, str | None]:
    """Photos, fit and style of POST /v1/encodings. Raises ApiError."""
    data, files = await _read(request, limits)
    photos = files.pop("image", [])
    _reject_other_files(files, "image")
    if photos and "images" not in data:
        # The model requires an image; the form sends its images as files.
        body = _validated(EncodingsBody, {**data, "images": [""]})
    else:
        body = _validated(EncodingsBody, data)
        photos += _images(body.images)
    if len(photos) > limits.images:
        raise ApiError(422, f"{len(photos)} images", field="images", value=len(photos),
                       allowed=f"1 to {limits.images}")  # fmt: skip
    return photos, body.fit, body.style


def _check_limits(mix: Mix, limits: Limits) -> None:
    """Raise ApiError if a mix exceeds the limits or names a style twice."""
    if len(mix.styles) > limits.styles:
        raise ApiError(422, f"{len(mix.styles)} styles in one mix", field="mix.styles",
                       value=len(mix.styles), allowed=f"at most {limits.styles}")  # fmt: skip
    for name in ("encode_steps", "decode_steps"):
        value, limit = getattr(mix, name), getattr(limits, name)
        if value is not None and value > limit:
            raise ApiError(422, f"mix.{name} is {value}", field=f"mix.{name}", value=value,
                           allowed=f"at most {limit}")  # fmt: skip
    names = [s.style for s in mix.styles]
    if len(set(names)) < len(names):
        raise ApiError(422, "the mix names a style twice", field="mix.styles",
                       value=", ".join(names))  # fmt: skip


async def _read(
    request: Request, limits: Limits
) -> tuple[dict[str, Any], dict[str, list[SentFile]]]:
    """Fields of the body, and files of a form by name."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in CONTENT_TYPES:
        raise ApiError(415, f"bodies of type {kind or '(none)'} are not supported",
                       field="Content-Type", value=kind, allowed=list(CONTENT_TYPES))  # fmt: skip
    # Read the whole body before parsing, so that the size limit comes first.
    body = await _read_bytes(request, limits)
    if kind == "application/json":
        data = await asyncio.to_thread(_json, body.decode("utf-8", "replace"), "body")
        if not isinstance(data, dict):
            raise ApiError(422, "the body must be a JSON object", field="body")
        return data, {}
    try:
        parser = MultiPartParser(request.headers, _stream(body), max_files=256, max_fields=256,
                                 max_part_size=limits.body_bytes)  # fmt: skip
        form = await parser.parse()
    except Exception as e:  # the parser raises several unrelated types
        message = " ".join(str(getattr(e, "detail", e)).split())
        raise ApiError(400, f"the form cannot be read: {message}", field="body") from None
    data = {}
    files: dict[str, list[SentFile]] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            label = name if name not in files else f"{name}[{len(files[name])}]"
            sent = SentFile(label, await value.read(), _file_name(value.filename or ""))
            files.setdefault(name, []).append(sent)
        elif name == "encoding":
            data.setdefault("encodings", []).append(value)
        elif name in data:
            raise ApiError(422, f"{name} is given twice", field=name)
        else:
            data[name] = value
    return data, files


def _file_name(path: str) -> str:
    """The end of a client's path, with "/" as its separator."""
    return path.replace("\\", "/")[-MAX_NAME:]


async def _stream(body: bytes) -> AsyncGenerator[bytes, None]:
    """The body as the stream that the form parser takes."""
    yield body


async def _read_bytes(request: Request, limits: Limits) -> bytes:
    """The whole body. Raises ApiError 408 or 413."""
    try:
        return await asyncio.wait_for(_read_limited(request, limits.body_bytes), limits.seconds)
    except asyncio.TimeoutError:
        raise ApiError(408, "the body did not arrive in time", field="body",
                       allowed=f"at most {limits.seconds:g} s") from None  # fmt: skip


async def _read_limited(request: Request, limit: int) -> bytes:
    too_large = ApiError(413, "the body is too large", field="body",
                         allowed=f"at most {limit:,} bytes")  # fmt: skip
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ApiError(400, f"{name} is not valid JSON: {str(e)[:100]}", field=name) from None


def _images(texts: list[str]) -> list[SentFile]:
    names = [f"images[{i}]" for i in range(len(texts))]
    return [SentFile(name, _base64(text, name)) for name, text in zip(names, texts, strict=True)]


def _base64(text: str, name: str) -> bytes:
    # A data URL of a browser has the base64 text after a comma. No URL is ever fetched.
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(422, f"{name} is not valid base64", field=name, value=text[:40],
                       allowed="the bytes of an image as base64; URLs are not fetched"
                       ) from None  # fmt: skip


def _validated(model: type[M], data: dict[str, Any]) -> M:
    try:
        return model.parse(data)
    except InvalidInputError as e:
        raise invalid(e) from None


def _reject_other_files(files: dict[str, Any], allowed: str) -> None:
    if files:
        name = next(iter(files))
        raise ApiError(422, f"a file named {name[:60]!r} is not expected", field=name[:60],
                       allowed=allowed)  # fmt: skip

"""Bodies as fields and files: JSON objects, and multipart forms."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from serving.config import Limits
from serving.errors import ApiError

# Characters of a file name that provenance keeps, from the end.
MAX_NAME = 1024
MAX_PARTS = 256
CONTENT_TYPES = ("application/json", "multipart/form-data")
# Parts of a form that hold pictures, with a file name or without.
PICTURES = re.compile(r"(image|mask)(\[\])?|style_image|mask\..*", re.DOTALL)
_WORDS = {"true": True, "false": False}


@dataclass(frozen=True)
class SentFile:
    """A file of a request.

    field: its path in the request, for errors. name: file name as sent, or "".
    """

    field: str
    data: bytes
    name: str = ""


@dataclass
class SentBody:
    """Fields of a body by name, and the files of a form by the names of their parts."""

    fields: dict[str, Any]
    files: dict[str, list[SentFile]]


async def parse_body(request: Request, data: bytes, limits: Limits) -> SentBody:
    """Parse a body by its Content-Type. Raises ApiError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in CONTENT_TYPES:
        raise ApiError(415, f"bodies of type {kind[:100] or '(none)'} are not read",
                       field="Content-Type", value=kind, allowed=list(CONTENT_TYPES)
                       )  # fmt: skip
    if kind == "application/json":
        fields = await asyncio.to_thread(parse_json, data, "body")
        if not isinstance(fields, dict):
            raise ApiError(422, "the body must be a JSON object", field="body")
        return SentBody(fields, {})
    return await _parse_form(request.headers["content-type"], data, limits)


async def _parse_form(content_type: str, data: bytes, limits: Limits) -> SentBody:
    # In Latin-1, the text of a part is its bytes: pictures need no file name.
    headers = Headers({"Content-Type": f"{content_type}; charset=latin-1"})
    try:
        parser = MultiPartParser(headers, _stream(data), max_files=MAX_PARTS, max_fields=MAX_PARTS,
                                 max_part_size=limits.body_bytes)  # fmt: skip
        form = await parser.parse()
    except MultiPartException as e:
        raise ApiError(400, f"the form cannot be read: {e.message}", field="body") from None
    except Exception:  # the parser raises errors of several types for damaged forms
        raise ApiError(400, "the form cannot be read", field="body") from None
    body = SentBody({}, {})
    for latin, value in form.multi_items():
        name = _utf8(latin)
        if isinstance(value, UploadFile):
            content, file = await value.read(), _utf8(value.filename or "")
        else:
            content, file = value.encode("latin-1"), ""
        if PICTURES.fullmatch(name):
            name = name.removesuffix("[]")
            count = len(body.files.get(name, ()))
            field = f"{name}[{count}]" if count else name
            body.files.setdefault(name, []).append(SentFile(field, content, _file_name(file)))
        else:
            _add_field(body.fields, name, content)
    return body


def _add_field(fields: dict[str, Any], name: str, content: bytes) -> None:
    """Add a form's text. ``encoding`` may occur several times. Raises ApiError 422."""
    text = content.decode("utf-8-sig", "replace")
    if name == "encoding":
        fields.setdefault("encodings", []).append(text)
    elif name in fields:
        raise ApiError(422, f"{name[:60]} is given twice", field=name[:60])
    else:
        fields[name] = _WORDS.get(text, text)


def _utf8(latin: str) -> str:
    return latin.encode("latin-1", "replace").decode("utf-8", "replace")


def _file_name(path: str) -> str:
    """The end of a client's path, with "/" as its separator."""
    return path.replace("\\", "/")[-MAX_NAME:]


async def _stream(body: bytes) -> AsyncGenerator[bytes, None]:
    """The body as the stream that the form parser takes."""
    yield body


def parse_json(data: bytes | str, field: str) -> Any:
    """Parse JSON, also with a byte order mark. Raises ApiError 400."""
    try:
        return json.loads(data if isinstance(data, str) else data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except RecursionError:
        reason = "it is nested too deeply"
    except json.JSONDecodeError as e:
        reason = f"{e.msg} in line {e.lineno}, column {e.colno}".lower()
    except ValueError:  # a number of too many digits
        reason = "a number has too many digits"
    raise ApiError(400, f"{field} is not valid JSON: {reason}", field=field)


def sent_images(texts: list[str]) -> list[SentFile]:
    """The photos of a JSON body. Raises ApiError 422."""
    return [SentFile(f"images[{i}]", from_base64(t, f"images[{i}]")) for i, t in enumerate(texts)]


def from_base64(text: str, field: str) -> bytes:
    """Decode base64, also of a data URL, in lines, or without padding. Raises ApiError 422."""
    # A data URL of a browser has the base64 text after a comma. No URL is ever fetched.
    body = text.partition(",")[2] if text.startswith("data:") else text
    body = "".join(body.split()).rstrip("=")
    try:
        return base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(422, f"{field} is not valid base64", field=field, value=text[:40],
                       allowed="the bytes of an image as base64; URLs are not fetched"
                       ) from None  # fmt: skip


def reject_other_files(files: dict[str, list[SentFile]], allowed: str) -> None:
    """Raise ApiError 422 for files that are left."""
    if files:
        name = next(iter(files))[:60]
        raise ApiError(422, f"a file named {name!r} is not expected", field=name,
                       allowed=allowed)  # fmt: skip

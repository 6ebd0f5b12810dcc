"""Reads the bytes of a request's body: within limits of size, time and pace, and unpacked."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable

from fastapi import Request

from serving.config import Limits
from serving.errors import ApiError

# Seconds before a body must arrive with limits.body_rate.
GRACE_SECONDS = 5.0
ENCODINGS = ("gzip", "identity")


async def read_body(request: Request, limits: Limits, reserve: Callable[[int], None]) -> bytes:
    """The body, without its gzip encoding.

    reserve: called with the size of each part that arrives; may raise ApiError. Raises ApiError 408
    for a body that takes too long or stalls, 413 for one that is too large, 415 for an encoding
    that is not read.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ENCODINGS:
        raise ApiError(415, "the body's encoding is not read", field="Content-Encoding",
                       value=encoding, allowed=list(ENCODINGS))  # fmt: skip
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.body_bytes:
        raise _too_large(limits)
    data = await _received(request, limits, reserve)
    if encoding == "identity":
        return data
    unpacked = await asyncio.to_thread(_unpacked, data, limits)
    reserve(len(unpacked))
    return unpacked


async def _received(request: Request, limits: Limits, reserve: Callable[[int], None]) -> bytes:
    """The body as sent. A client that sends little, slowly, would hold its memory for long."""
    parts: list[bytes] = []
    size, started, stream = 0, time.monotonic(), request.stream()
    while True:
        allowed = min(limits.seconds, GRACE_SECONDS + size / limits.body_rate)
        try:
            left = started + allowed - time.monotonic()
            part = await asyncio.wait_for(anext(stream), max(0.0, left))
        except StopAsyncIteration:
            return b"".join(parts)
        except asyncio.TimeoutError:
            raise ApiError(408, "the body did not arrive in time", field="body",
                           allowed=f"at most {limits.seconds:g} s, and at least "
                           f"{limits.body_rate:,} bytes a second") from None  # fmt: skip
        size += len(part)
        if size > limits.body_bytes:
            raise _too_large(limits)
        reserve(len(part))
        parts.append(part)


def _unpacked(data: bytes, limits: Limits) -> bytes:
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        out = unpacker.decompress(data, limits.body_bytes + 1)
    except zlib.error:
        raise ApiError(400, "the body is not valid gzip", field="body") from None
    if len(out) > limits.body_bytes:
        raise _too_large(limits)
    if not unpacker.eof:
        raise ApiError(400, "the body's gzip data is truncated", field="body")
    return out


def _too_large(limits: Limits) -> ApiError:
    return ApiError(413, "the body is too large", field="body",
                    allowed=f"at most {limits.body_bytes:,} bytes")  # fmt: skip

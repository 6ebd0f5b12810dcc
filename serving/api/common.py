"""Shared by the routes: authorization and content negotiation."""

from __future__ import annotations

from fastapi import Request

from serving.errors import ApiError
from serving.service import Service, current


def authorised(request: Request) -> tuple[Service, str]:
    """Check the request's API key. Returns the service and the key's name.

    Raises ApiError 401 or 429.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key")
    service = current()
    name = request.state.key = service.keys.check(key)
    return service, name


def negotiate(request: Request, offered: list[str]) -> str:
    """The offered media type that Accept prefers; the first of equals. Raises ApiError 406."""
    accept = request.headers.get("accept") or "*/*"
    ranges = _ranges(accept)
    best = max(offered, key=lambda media: _quality(media, ranges))
    if _quality(best, ranges) <= 0:
        raise ApiError(406, f"none of {accept[:100]!r} is offered here", field="Accept",
                       value=accept, allowed=offered)  # fmt: skip
    return best


def _quality(media: str, ranges: dict[str, float]) -> float:
    """The q of the most specific range that matches (RFC 9110, section 12.5.1)."""
    for pattern in (media, media.partition("/")[0] + "/*", "*/*", "*"):
        if pattern in ranges:
            return ranges[pattern]
    return 0.0


def _ranges(accept: str) -> dict[str, float]:
    """q by media range of an Accept header."""
    found = {}
    for part in accept.split(","):
        media, _, options = part.partition(";")
        q = 1.0
        for option in options.split(";"):
            name, _, value = option.strip().partition("=")
            if name.lower() == "q":
                try:
                    q = float(value)
                except ValueError:
                    q = 0.0
        found[media.strip().lower()] = q
    return found

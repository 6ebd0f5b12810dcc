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
    best, best_q = None, 0.0
    for media in offered:
        q = max((q for pattern, q in _ranges(accept) if _matches(pattern, media)), default=0.0)
        if q > best_q:
            best, best_q = media, q
    if best is None:
        raise ApiError(406, f"none of {accept[:100]!r} is offered here", field="Accept",
                       value=accept, allowed=offered)  # fmt: skip
    return best


def _ranges(accept: str) -> list[tuple[str, float]]:
    """Media ranges of an Accept header with their q."""
    out = []
    for part in accept.split(","):
        media, _, options = part.partition(";")
        q = 1.0
        for option in options.split(";"):
            name, _, value = option.strip().partition("=")
            if name == "q":
                try:
                    q = float(value)
                except ValueError:
                    q = 0.0
        out.append((media.strip().lower(), q))
    return out


def _matches(pattern: str, media: str) -> bool:
    return pattern in ("*/*", "*", media) or pattern == media.partition("/")[0] + "/*"

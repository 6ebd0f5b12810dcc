"""The webhooks that jobs may name."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from serving.errors import ApiError


def check_webhook(url: str | None, allowed: Iterable[str]) -> None:
    """Raise ApiError 422 for an address outside of the allowed ones.

    allowed: addresses such as ``https://hooks.example/styles/``; scheme, host and port must be
    equal, and the path must begin with theirs.
    """
    if url is None or any(_is_within(url, each) for each in allowed):
        return
    raise ApiError(422, "the webhook's address is not allowed", field="webhook", value=url,
                   allowed="the addresses in the server's setting webhooks")  # fmt: skip


def _is_within(url: str, allowed: str) -> bool:
    try:
        given, known = urlsplit(url), urlsplit(allowed)
        same = (given.scheme, given.hostname, given.port) == (
            known.scheme, known.hostname, known.port,
        )  # fmt: skip
    except ValueError:
        return False
    plain = given.username is None and ".." not in given.path and given.scheme in ("http", "https")
    folder = known.path.rstrip("/")
    return same and plain and (given.path == folder or given.path.startswith(f"{folder}/"))

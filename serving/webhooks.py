"""Tells addresses that the operator allows that a job has ended."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from factory.core.proxies import is_loopback
from serving.errors import ApiError

TIMEOUT_SECONDS = 10.0
# Seconds between the attempts.
PAUSES = (1.0, 5.0)


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


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect could lead to an address that is not allowed."""

    def redirect_request(self, *args: Any) -> None:
        return None


def send_webhook(url: str, body: bytes) -> str | None:
    """POST JSON to an address, with a few attempts. Returns the last problem; None on success."""
    proxies: dict[str, str] | None = {} if is_loopback(urlsplit(url).hostname or "") else None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _NoRedirects)
    request = urllib.request.Request(
        url, data=body, headers={"Content-Type": "application/json"}, method="POST"
    )
    problem = None
    for pause in (*PAUSES, None):
        try:
            opener.open(request, timeout=TIMEOUT_SECONDS).close()
            return None
        except urllib.error.HTTPError as e:
            problem = f"it answers {e.code}"
        except (OSError, ValueError) as e:
            problem = str(getattr(e, "reason", e))
        if pause is not None:
            time.sleep(pause)
    return problem

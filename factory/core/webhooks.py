"""Webhooks: JSON that is sent to an address of the operator, signed where a secret is set."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from factory.core.proxies import is_loopback
from osasis.errors import UserError

TIMEOUT_SECONDS = 10.0
# Seconds between the attempts.
PAUSES = (1.0, 5.0)
# The secret of signatures; without it, bodies are sent unsigned.
SECRET = "STYLE_FACTORY_WEBHOOK_SECRET"
SIGNATURE = "X-Style-Factory-Signature"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect could lead to an address that is not allowed."""

    def redirect_request(self, *args: Any) -> None:
        return None


def signature(body: bytes, secret: str) -> str:
    """``sha256=`` and the HMAC-SHA256 of a body, in hexadecimal digits."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def send_webhook(url: str, body: bytes) -> str | None:
    """POST JSON to an address, with a few attempts. Returns the last problem; None on success."""
    proxies: dict[str, str] | None = {} if is_loopback(urlsplit(url).hostname or "") else None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _NoRedirects)
    headers = {"Content-Type": "application/json"}
    if secret := os.environ.get(SECRET):
        headers[SIGNATURE] = signature(body, secret)
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
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


# Takes the fields that the notification of the end has.
Finish = Callable[[bool, dict[str, Any]], None]


@contextlib.contextmanager
def notified(
    url: str | None, command: str, facts: dict[str, Any], report: Callable[[str], None]
) -> Iterator[Finish]:
    """Post the start of a command to a webhook, and its end or failure.

    url: None sends nothing. facts: fields of every notification. report: called with a line where
    the address does not take a notification, which does not fail the command. The caller passes
    success and further fields to the yielded function; an exception is a failure. Raises UserError
    for an address that is no http or https URL.
    """
    if url is None:
        yield lambda succeeded, fields: None
        return
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise UserError("--notify: it must be an address that begins with http:// or https://")
    started = time.monotonic()
    outcome: tuple[bool, dict[str, Any]] = False, {}

    def send(event: str, **fields: Any) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        body = {"event": event, "command": command, "time": now, **facts, **fields}
        if problem := send_webhook(url, json.dumps(body).encode()):
            # The path may hold a token.
            report(f"the webhook at {urlsplit(url).hostname} is not reached: {problem}")

    def finish(succeeded: bool, fields: dict[str, Any]) -> None:
        nonlocal outcome
        outcome = succeeded, fields

    start = threading.Thread(target=send, args=("start",), daemon=True)
    start.start()
    try:
        yield finish
    except BaseException as e:
        outcome = False, {"error": str(e) or type(e).__name__}
        raise
    finally:
        start.join()
        succeeded, fields = outcome
        seconds = round(time.monotonic() - started, 2)
        send("end" if succeeded else "failure", seconds=seconds, **fields)

"""A small client of the endpoint, typed; needs nothing of the server's packages but Pillow.

client = Client("http://127.0.0.1:8000")
photo = client.encode("photo.jpg")
client.stylize(photo, {"styles": ["oil"], "strength": 0.8}).save("out.png")
"""

from __future__ import annotations

import base64
import io
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from osasis.errors import UserError


class ServerError(UserError):
    """The server's refusal. status: of HTTP. error: its JSON. retry_after: seconds, or None."""

    def __init__(self, status: int, error: dict[str, Any], retry_after: int | None) -> None:
        super().__init__(f"{status}: {error.get('message', 'no reason given')}")
        self.status, self.error, self.retry_after = status, error, retry_after


@dataclass(frozen=True)
class Photo:
    """An encoded photo; ``data`` stands in where the server has forgotten the id."""

    id: str
    data: bytes


class Client:
    """tries: how often a busy server is asked, at its own Retry-After."""

    def __init__(
        self, url: str, key: str | None = None, *, timeout: float = 180.0, tries: int = 4
    ) -> None:
        self.url, self.key = url.rstrip("/"), key
        self.timeout, self.tries = timeout, tries

    def styles(self, q: str = "") -> list[dict[str, Any]]:
        """All styles that match, of every page."""
        found: list[dict[str, Any]] = []
        offset: int | None = 0
        while offset is not None:
            query = urllib.parse.urlencode({"offset": offset, "limit": 200, "q": q})
            page = json.loads(self._ask("GET", f"/v1/styles?{query}"))
            found += page["styles"]
            offset = page["next_offset"]
        return found

    def encode(self, photo: str | Path | bytes, style: str | None = None) -> Photo:
        """Send a photo once; with ``style`` it is encoded at once."""
        data = photo if isinstance(photo, bytes) else Path(photo).read_bytes()
        body = {"images": [_text(data)], **({"style": style} if style else {})}
        answer = json.loads(self._ask("POST", "/v1/encodings", body))
        return Photo(answer["encodings"][0]["id"], data)

    def stylize(
        self,
        photo: Photo | str | Path | bytes,
        mix: dict[str, Any],
        *,
        masks: dict[str, str | Path | bytes] | None = None,
    ) -> Image.Image:
        """One photo through one mix. Raises ServerError."""
        body: dict[str, Any] = {"mix": mix}
        if masks:
            body["masks"] = {
                k: _text(m if isinstance(m, bytes) else Path(m).read_bytes())
                for k, m in masks.items()
            }
        if isinstance(photo, Photo):
            try:
                return self._image({**body, "encodings": [photo.id]})
            except ServerError as e:
                if e.status != 404:
                    raise
            photo = photo.data
        data = photo if isinstance(photo, bytes) else Path(photo).read_bytes()
        return self._image({**body, "images": [_text(data)]})

    def _image(self, body: dict[str, Any]) -> Image.Image:
        image = Image.open(io.BytesIO(self._ask("POST", "/v1/stylize", body, "image/png")))
        image.load()
        return image

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, accept: str = "*/*"
    ) -> bytes:
        headers = {"Accept": accept, "Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(1, self.tries + 1):
            request = urllib.request.Request(
                self.url + path, data=data, headers=headers, method=method
            )
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return bytes(answer.read())
            except urllib.error.HTTPError as e:
                failure = _failure(e)
            except OSError as e:  # URLError and timeouts are such
                reason = getattr(e, "reason", e)
                raise UserError(f"{self.url} cannot be reached ({reason})") from None
            if failure.retry_after is None or attempt == self.tries:
                raise failure
            time.sleep(failure.retry_after)
        raise AssertionError("unreachable")


def _failure(e: urllib.error.HTTPError) -> ServerError:
    try:
        error = json.loads(e.read())["error"]
    except (ValueError, KeyError, TypeError):
        error = {"message": e.reason}
    after = e.headers.get("Retry-After", "")
    return ServerError(e.code, error, int(after) if after.isdigit() else None)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()

"""Typed HTTP clients. They need Pillow, and none of the server's dependencies.

client = Client("http://127.0.0.1:8000")
photo = client.encode("photo.jpg")
client.stylize(photo, {"styles": ["oil"], "strength": 0.8}).save("out.png")
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import io
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar

from PIL import Image

from factory.core.proxies import opener, used_proxy
from osasis.errors import UserError

T = TypeVar("T")
ImageSource = str | Path | bytes


class ServerError(UserError):
    """An HTTP error answer. error: the ``error`` object of its JSON. retry_after: seconds or
    None."""

    def __init__(self, status: int, error: dict[str, Any], retry_after: int | None) -> None:
        super().__init__(f"{status}: {error.get('message', 'no reason given')}")
        self.status, self.error, self.retry_after = status, error, retry_after


class StyleInfo(TypedDict):
    """A style, as ``GET /v1/styles`` lists it."""

    id: str
    version: int
    reference: str
    aliases: list[str]
    tags: list[str]
    licence: str
    created_ms: int
    preview: str
    usable: bool
    problem: str | None


@dataclass(frozen=True)
class Photo:
    """A photo stored on the server. data: the file's bytes, sent again if the id has expired."""

    id: str
    data: bytes


@dataclass(frozen=True)
class Face:
    """A face of a photo. crop: left, top and side of an upright square around it, in pixels."""

    crop: tuple[int, int, int]


class Client:
    """A client of one server.

    key: API key. timeout: seconds per attempt. tries: attempts while the server answers with
    Retry-After (429, 503); the client waits as long as the server asks. Requests go through the
    environment's ``http_proxy``, ``https_proxy`` and ``no_proxy``, but not to this machine.
    """

    def __init__(
        self, url: str, key: str | None = None, *, timeout: float = 180.0, tries: int = 4
    ) -> None:
        self.url, self.key = url.rstrip("/"), key
        self.timeout, self.tries = timeout, tries

    def styles(self, q: str = "") -> list[StyleInfo]:
        """All styles that match the words of ``q``, from every page. Raises ServerError."""
        found: list[StyleInfo] = []
        offset: int | None = 0
        while offset is not None:
            query = urllib.parse.urlencode({"offset": offset, "limit": 200, "q": q})
            page = self._json("GET", f"/v1/styles?{query}")
            found += page["styles"]
            offset = page["next_offset"]
        return found

    def make_style(
        self,
        image: ImageSource,
        name: str | None = None,
        keep: Literal["temporary", "registered", "training"] = "temporary",
    ) -> str:
        """Make a style from an image, without training; its name for mixes.

        name, keep: see ``POST /v1/styles``. Raises ServerError.
        """
        body = {"image": _base64(_read(image)), "name": name, "keep": keep}
        return str(self._json("POST", "/v1/styles", body)["id"])

    def encode(self, photo: ImageSource, style: str | None = None) -> Photo:
        """Store a photo on the server; with ``style``, encode it now. Raises ServerError."""
        data = _read(photo)
        body = {"images": [_base64(data)], **({"style": style} if style else {})}
        answer = self._json("POST", "/v1/encodings", body)
        return Photo(answer["encodings"][0]["id"], data)

    def faces(self, photo: Photo | ImageSource) -> list[Face]:
        """The faces that fit ``align`` finds in a photo, from left to right. Raises ServerError."""
        answer = self._with_photo(photo, {}, lambda body: self._json("POST", "/v1/faces", body))
        boxes = [face["crop"] for face in answer["photos"][0]["faces"]]
        return [Face((box["x"], box["y"], box["side"])) for box in boxes]

    def mask(
        self,
        photo: Photo | ImageSource,
        region: Literal["subject", "background", "face", "hair"] = "subject",
        *,
        points: Sequence[tuple[float, float]] = (),
        box: tuple[float, float, float, float] | None = None,
        text: str | None = None,
    ) -> Image.Image:
        """The mask ("L") that the server proposes for a region of a photo. Raises ServerError.

        points: on the subject. box: left, top, right and bottom of a box around it. Both in shares
        of the photo's width and height. text: what the subject is, where the server knows CLIP.
        """
        given: dict[str, Any] = {"points": list(points), "box": box, "text": text}
        fields = {"region": region, **{name: value for name, value in given.items() if value}}
        return self._with_photo(photo, fields, lambda body: self._image(body, "/v1/masks"))

    def stylize(
        self,
        photo: Photo | ImageSource,
        mix: Mapping[str, Any],
        *,
        fit: Literal["crop", "pad", "resize", "align"] = "crop",
        crop: tuple[int, int, int] | None = None,
        size: Literal["photo", "base"] = "photo",
        detail: bool = False,
        no_face: Literal["error", "crop", "keep"] = "error",
        masks: Mapping[str, ImageSource] | None = None,
        alpha: Literal["keep", "drop"] | None = None,
        provenance: Literal["full", "style", "none"] = "style",
    ) -> Image.Image:
        """Stylize one photo with a mix.

        masks: image files by the names in the mix. crop: left, top and side in pixels. The others:
        see ``POST /v1/stylize``. Raises ServerError.
        """
        body: dict[str, Any] = {
            "mix": dict(mix), "fit": fit, "size": size, "detail": detail, "no_face": no_face,
            "alpha": alpha, "provenance": provenance,
        }  # fmt: skip
        if crop is not None:
            body["crop"] = dict(zip(("x", "y", "side"), crop, strict=True))
        if masks:
            body["masks"] = {name: _base64(_read(mask)) for name, mask in masks.items()}
        return self._with_photo(photo, body, self._image)

    def _with_photo(self, photo: Photo | ImageSource, body: dict[str, Any], send: Any) -> Any:
        """Send a body with a photo, by its id if possible."""
        if isinstance(photo, Photo):
            try:
                return send({**body, "encodings": [photo.id]})
            except ServerError as e:
                if e.status != 404:
                    raise
            photo = photo.data
        return send({**body, "images": [_base64(_read(photo))]})

    def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self._request(method, path, body, "application/json")
        with contextlib.suppress(ValueError):
            if isinstance(data := json.loads(answer), dict):
                return data
        proxy = used_proxy(self.url)
        named = f"{proxy}: {self.url}" if proxy else self.url
        raise UserError(f"{named} answers {answer[:40]!r}, which is no answer of a style server")

    def _image(self, body: dict[str, Any], path: str = "/v1/stylize") -> Image.Image:
        image = Image.open(io.BytesIO(self._request("POST", path, body, "image/png")))
        image.load()
        return image

    def _request(
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
                with opener(self.url).open(request, timeout=self.timeout) as answer:
                    return bytes(answer.read())
            except urllib.error.HTTPError as e:
                error = _server_error(e, used_proxy(self.url))
            # OSError includes URLError and timeouts; HTTPException is an answer that is not HTTP.
            except (OSError, http.client.HTTPException, ValueError) as e:
                proxy, reason = used_proxy(self.url), getattr(e, "reason", e)
                named = f"{proxy}: {self.url}" if proxy else self.url
                raise UserError(f"{named} cannot be reached ({reason})") from None
            if error.retry_after is None or attempt == self.tries:
                raise error
            time.sleep(error.retry_after)
        raise AssertionError("unreachable")


class AsyncClient:
    """``Client`` for asyncio: each call runs in a thread, ``concurrency`` at a time.

    The other arguments are those of ``Client``.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 180.0,
        tries: int = 4,
        concurrency: int = 16,
    ) -> None:
        self._client = Client(url, key, timeout=timeout, tries=tries)
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="style-client")

    async def _run(self, call: Callable[..., T], *args: Any, **options: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, partial(call, *args, **options))

    async def styles(self, q: str = "") -> list[StyleInfo]:
        """As ``Client.styles``."""
        return await self._run(self._client.styles, q)

    async def make_style(
        self, image: ImageSource, name: str | None = None, keep: str = "temporary"
    ) -> str:
        """As ``Client.make_style``."""
        return await self._run(self._client.make_style, image, name, keep)

    async def encode(self, photo: ImageSource, style: str | None = None) -> Photo:
        """As ``Client.encode``."""
        return await self._run(self._client.encode, photo, style)

    async def faces(self, photo: Photo | ImageSource) -> list[Face]:
        """As ``Client.faces``."""
        return await self._run(self._client.faces, photo)

    async def mask(
        self, photo: Photo | ImageSource, region: str = "subject", **where: Any
    ) -> Image.Image:
        """As ``Client.mask``."""
        return await self._run(self._client.mask, photo, region, **where)

    async def stylize(
        self, photo: Photo | ImageSource, mix: Mapping[str, Any], **options: Any
    ) -> Image.Image:
        """As ``Client.stylize``, with its options."""
        return await self._run(self._client.stylize, photo, mix, **options)


def _server_error(e: urllib.error.HTTPError, proxy: str | None) -> ServerError:
    try:
        error = json.loads(e.read())["error"]
    except (ValueError, KeyError, TypeError):
        # Perhaps the answer of a proxy that does not reach the server.
        error = {"message": f"{e.reason} ({proxy})" if proxy else e.reason}
    after = e.headers.get("Retry-After", "")
    return ServerError(e.code, error, int(after) if after.isdigit() else None)


def _read(image: ImageSource) -> bytes:
    return image if isinstance(image, bytes) else Path(image).read_bytes()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()

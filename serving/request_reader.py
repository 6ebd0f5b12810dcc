"""Reads HTTP/1.1 requests from a connection as their bytes, and finds where each ends."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus

import h11

from serving.errors import ApiError

# Most bytes of a request's line and headers.
HEAD_BYTES = 32_768
ADDRESS_BYTES = 16_384
CHUNK = 65_536
METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE")


class RequestReader:
    """The requests of one connection, as bytes to pass on unchanged.

    head_seconds: for the head of a request to arrive. complete: whether the current request has
    been returned whole.
    """

    def __init__(self, reader: asyncio.StreamReader, head_seconds: float) -> None:
        self.reader, self.head_seconds = reader, head_seconds
        self.complete = True
        self._parser = h11.Connection(h11.SERVER)
        self._rest, self._first = b"", True

    async def next_head(self) -> bytes | None:
        """The head of the next request, and what has arrived of its body; None at the end.

        A further request may begin at any time, until the server closes the connection. Raises
        ApiError 400, 405, 408, 414 or 431.
        """
        if not self._first and not self._rest:
            self._rest = await self.reader.read(CHUNK)
        self._first = False
        try:
            return await asyncio.wait_for(self._read_head(), self.head_seconds)
        except asyncio.TimeoutError:
            raise ApiError(408, "the head of the request did not arrive in time",
                           allowed=f"at most {self.head_seconds:g} s") from None  # fmt: skip

    async def _read_head(self) -> bytes | None:
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        head = b""
        data = self._rest or await self.reader.read(CHUNK)
        while data:
            head += data
            self._parser.receive_data(data)
            event = self._next_event(head)
            if isinstance(event, h11.Request):
                self._check_length(head, event)
                if event.method not in METHODS:
                    name = event.method.decode("ascii", "replace")
                    raise ApiError(405, f"the method {name[:40]} is unknown", field="method",
                                   value=name, allowed=[m.decode() for m in METHODS]
                                   )  # fmt: skip
                return self._own_part(head)
            data = await self.reader.read(CHUNK)
        return None

    def _check_length(self, head: bytes, request: h11.Request) -> None:
        """Raise ApiError for a head that has arrived at once and is too long."""
        if len(request.target) > ADDRESS_BYTES:
            raise _too_long(414, "address is", ADDRESS_BYTES)
        if head.find(b"\r\n\r\n") > HEAD_BYTES:
            raise _too_long(431, "headers are", HEAD_BYTES)

    async def next_part(self) -> bytes:
        """The next bytes of the body. Raises ApiError 400, and ConnectionError at the end."""
        data = await self.reader.read(CHUNK)
        if not data:
            raise ConnectionResetError("the client has closed the connection")
        self._parser.receive_data(data)
        return self._own_part(data)

    def _own_part(self, data: bytes) -> bytes:
        """The part of received bytes that belongs to the current request; keeps the rest."""
        self.complete, event = False, None
        while event not in (h11.NEED_DATA, h11.PAUSED):
            event = self._next_event(b"\n")
            self.complete = self.complete or isinstance(event, h11.EndOfMessage)
        self._rest = self._parser.trailing_data[0] if self.complete else b""
        return data[: len(data) - len(self._rest)]

    def _next_event(self, head: bytes) -> object:
        """The parser's next event. Raises ApiError for malformed bytes."""
        try:
            return self._parser.next_event()
        except h11.RemoteProtocolError as e:
            if e.error_status_hint != HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
                raise ApiError(400, "this is no valid HTTP request: its method, headers, "
                               "Content-Length or chunks are malformed") from None  # fmt: skip
            if b"\n" in head:
                raise _too_long(431, "headers are", HEAD_BYTES) from None
            raise _too_long(414, "address is", ADDRESS_BYTES) from None


def _too_long(status: int, what: str, most: int) -> ApiError:
    return ApiError(status, f"the request's {what} too long", allowed=f"at most {most:,} bytes")


def error_answer(error: ApiError) -> bytes:
    """An error as a complete answer that ends the connection."""
    body = json.dumps(error.body()).encode()
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **error.headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    phrase = HTTPStatus(error.status).phrase
    return f"HTTP/1.1 {error.status} {phrase}\r\n{lines}\r\n".encode() + body

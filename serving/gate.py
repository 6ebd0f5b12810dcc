"""The listener in front of Ray Serve's HTTP proxy on one machine.

uvicorn, which the proxy uses, waits without end for the head of a request, takes any number of
connections, and answers malformed requests in plain text. The gate reads the head of each request,
refuses what is malformed or too much with JSON, and passes the bytes of all others on unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from dataclasses import dataclass

from serving.errors import ApiError
from serving.request_reader import CHUNK, RequestReader, error_answer

# Seconds for a client to take a part of an answer.
WRITE_SECONDS = 60.0
# Seconds in which a refused client may still send; a closed socket would discard the answer.
LINGER_SECONDS = 0.5


@dataclass(frozen=True)
class GateLimits:
    """connections, client_connections: open ones in all, and of one address; 0 is no limit.
    head_seconds: for the head of a request to arrive."""

    connections: int
    client_connections: int
    head_seconds: float


class Gate:
    """Listens at an address and passes requests on to a port of this machine."""

    def __init__(self, server_port: int, limits: GateLimits) -> None:
        self.server_port, self.limits = server_port, limits
        self._open: Counter[str] = Counter()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gate", daemon=True)
        self._thread.start()

    def listen(self, host: str, port: int) -> None:
        """Begin to accept connections. Raises OSError where the address cannot be bound."""
        starting = asyncio.start_server(self._accept, host, port, limit=CHUNK, backlog=1024)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result()

    def close(self) -> None:
        """Stop to listen and end all connections."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = str(writer.get_extra_info("peername")[0])
        self._open[address] += 1
        try:
            self._check_connections(address)
            await self._pass_on(RequestReader(reader, self.limits.head_seconds), writer)
        except ApiError as e:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                writer.write(error_answer(e))
                writer.write_eof()
                await asyncio.wait_for(_discard(reader), LINGER_SECONDS)
        except (OSError, asyncio.TimeoutError):
            pass  # the client or the server is gone
        finally:
            self._open[address] -= 1
            self._open += Counter()  # drops addresses without connections
            writer.close()

    def _check_connections(self, address: str) -> None:
        """Raise ApiError 429 or 503 where too many connections are open."""
        most, each = self.limits.connections, self.limits.client_connections
        if each and self._open[address] > each:
            raise ApiError(429, f"too many connections from {address}",
                           allowed=f"at most {each} of one address", retry_after=5
                           )  # fmt: skip
        if most and sum(self._open.values()) > most:
            raise ApiError(503, "too many connections", allowed=f"at most {most}", retry_after=5)

    async def _pass_on(self, requests: RequestReader, client: asyncio.StreamWriter) -> None:
        """Pass requests and answers until either side closes.

        Raises ApiError for a malformed request before any answer; later ones end the connection.
        """
        head = await requests.next_head()
        if head is None:
            return
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self.server_port)
        except OSError:
            raise ApiError(503, "this server is starting or closing", retry_after=5) from None
        relay = _Relay(answers, client)
        tasks = {
            asyncio.create_task(_pass_requests(requests, head, server)),
            asyncio.create_task(relay.run()),
        }
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                try:
                    task.result()
                except ApiError:
                    if not relay.begun:
                        raise
        finally:
            for task in tasks:
                task.cancel()
            server.close()  # cancels the work for a client that is gone


async def _pass_requests(
    requests: RequestReader, head: bytes | None, server: asyncio.StreamWriter
) -> None:
    while head is not None:
        server.write(head)
        while not requests.complete:
            await server.drain()
            server.write(await requests.next_part())
        await server.drain()
        head = await requests.next_head()


async def _discard(reader: asyncio.StreamReader) -> None:
    while await reader.read(CHUNK):
        pass


class _Relay:
    """Passes answers on to a client. begun: whether any byte was passed."""

    def __init__(self, answers: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.answers, self.client, self.begun = answers, client, False

    async def run(self) -> None:
        while data := await self.answers.read(CHUNK):
            self.begun = True
            self.client.write(data)
            await asyncio.wait_for(self.client.drain(), WRITE_SECONDS)

"""Server-sent events: the progress of a request, then its answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi.responses import StreamingResponse

from serving.errors import ApiError
from serving.schemas import ProgressEvent
from serving.service import Report
from serving.submissions import TaskStatus

EVENTS = "text/event-stream"
# Proxies drop connections that carry nothing for about a minute.
KEEP_ALIVE_SECONDS = 15.0


def event_stream(
    work: Callable[[Report], Awaitable[dict[str, Any]]],
    held: contextlib.ExitStack,
    seconds_per_image: Callable[[], float],
) -> StreamingResponse:
    """An answer of events `progress`, then `result` or `error`, while ``work`` runs.

    A client that disconnects cancels the work. held: closed when the work has ended.
    seconds_per_image: estimate for images in the queue.
    """
    events: asyncio.Queue[str | None] = asyncio.Queue()
    clocks: dict[int, TimeLeft] = {}

    def report(image: int, status: TaskStatus) -> None:
        left = clocks.setdefault(image, TimeLeft()).estimate(status, seconds_per_image())
        event = ProgressEvent(image=image, seconds_left=left, **vars(status))
        events.put_nowait(_event("progress", event.model_dump()))

    async def run() -> None:
        try:
            events.put_nowait(_event("result", await work(report)))
        except ApiError as e:
            events.put_nowait(_event("error", e.body()))
        except Exception:
            error = ApiError(500, "unexpected error; see the server's log")
            events.put_nowait(_event("error", error.body()))
            raise
        finally:
            events.put_nowait(None)

    task = asyncio.create_task(run())
    # Also runs where the task is cancelled before its first step.
    task.add_done_callback(lambda _: held.close())

    async def stream() -> AsyncIterator[str]:
        try:
            while True:
                try:
                    event = await asyncio.wait_for(events.get(), KEEP_ALIVE_SECONDS)
                except asyncio.TimeoutError:
                    event = ": waiting\n\n"
                if event is None:
                    await task
                    return
                yield event
        finally:
            task.cancel()

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream(), media_type=EVENTS, headers=headers)


class TimeLeft:
    """Estimates the seconds until the current stage of a task ends."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage, self._since = "", 0.0

    def estimate(self, status: TaskStatus, seconds_per_image: float) -> float | None:
        """Seconds left of the stage; None while nothing is known."""
        if status.stage != self._stage:
            self._stage, self._since = status.stage, self._clock()
        if status.stage == "queue":
            return round((status.place + 1) * seconds_per_image, 1)
        if not status.step:
            return None
        elapsed = self._clock() - self._since
        return round(elapsed / status.step * (status.steps - status.step), 1)


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"

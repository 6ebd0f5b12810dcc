"""The router: admits requests, resolves their styles and runs them on engines.

Each ingress process has one; routes get it from ``current()``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import sys
import time
import uuid
from collections.abc import Awaitable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Request
from torch import Tensor

from factory.core.home import Home
from factory.core.text_edits import find_text_edit
from factory.registry import StyleVersion
from osasis.bundles.base import read_base_info
from osasis.bundles.provenance import source_name
from osasis.choices import Alpha
from osasis.errors import UserError
from osasis.images.masks import shape_problem
from osasis.mix import Mix
from osasis.networks.sizes import DiffAEConfig
from osasis.validation import InvalidInputError
from serving.admission import Admission
from serving.auth import Keys
from serving.bodies import SentFile, StylizeRequest
from serving.config import ServeConfig
from serving.engine import ImageTask, Result
from serving.errors import ApiError, invalid
from serving.metrics import Counters
from serving.request_images import limit_pillow, mask_png, photo_id, square_photo
from serving.served_styles import StyleCatalog
from serving.shared_state import StoredPhoto
from serving.style_loader import StyleFailedError

T = TypeVar("T")
MAX_ATTEMPTS = 4
HEARTBEAT_SECONDS = 1.0
_current: Service | None = None


class Service:
    """The router of one ingress process; needs a running event loop.

    engines, state: handles of the deployments.
    """

    def __init__(self, config: ServeConfig, engines: Any, state: Any) -> None:
        self.config, self.engines, self.state = config, engines, state
        self.home = Home.find(config.home)
        self.info = read_base_info(self.home.base_folder(config.base))
        self.sizes = DiffAEConfig.parse(self.info["config"])
        self.catalog = StyleCatalog(self.home, self.info["fingerprint"])
        self.catalog.poll()
        self.catalog.start(config.poll)
        self.keys = Keys(Path(config.keys) if config.keys else None)
        self.counters = Counters()
        self.name = uuid.uuid4().hex[:12]
        self.admission = Admission(config.queue, config.bodies)
        # Jobs send one batch per engine at a time, so that they never fill the engines' queues.
        self.job_slots = asyncio.Semaphore(config.replicas)
        self.open_requests = 0
        self.draining = False
        self.last_heartbeat = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        self.log = _logger(config.log)
        limit_pillow(config.limits)
        self.run_in_background(self._send_heartbeats())

    async def _send_heartbeats(self) -> None:
        while True:
            samples = {
                **self.counters.samples(),
                "in_flight": float(self.admission.images),
                "open_requests": float(self.open_requests),
                "rejected_total": float(self.admission.rejected),
                "draining": float(self.draining),
                "styles_listed": float(len(self.catalog.styles)),
            }
            with contextlib.suppress(Exception):
                self.draining |= await self.state.heartbeat.remote(self.name, samples)
                self.last_heartbeat = time.monotonic()
            await asyncio.sleep(HEARTBEAT_SECONDS / (4 if self.draining else 1))

    def run_in_background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @contextlib.contextmanager
    def admit_body(self, request: Request) -> Iterator[None]:
        """Reserve memory for a request's body. Raises ApiError 503 when full or draining."""
        if self.draining:
            raise ApiError(503, "this server is closing and takes no new work", retry_after=10)
        limit, length = self.config.limits.body_bytes, request.headers.get("content-length", "")
        with self.admission.admit_body(min(int(length), limit) if length.isdecimal() else limit):
            yield

    async def with_timeout(self, work: Awaitable[T]) -> T:
        """Await within ``limits.seconds``. Raises ApiError 504."""
        seconds = self.config.limits.seconds
        try:
            return await asyncio.wait_for(work, seconds)
        except asyncio.TimeoutError:
            raise ApiError(504, "the request took too long",
                           allowed=f"at most {seconds:g} s") from None  # fmt: skip

    async def read_photos(self, request: StylizeRequest) -> list[StoredPhoto]:
        """The photos of a request, sent and stored. Raises ApiError."""
        photos = [await self.read_photo(sent, request.fit) for sent in request.photos]
        return photos + [await self.get_photo(k, i) for i, k in enumerate(request.encodings)]

    async def make_tasks(
        self, request: StylizeRequest, photos: list[StoredPhoto], kind: str
    ) -> list[ImageTask]:
        """One task per photo, with resolved styles, masks and text edit. Raises ApiError.

        kind: format of the images, a key of MEDIA.
        """
        keep = request.keeps_alpha(kind)
        masks = await self._read_masks(request, photos)
        versions, edit = await asyncio.to_thread(self._resolve, request.mix)
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in request.masks.items()}
        tasks = []
        for photo in photos:
            alpha: Alpha | None = None
            png = photo.png
            if photo.over_white is not None:
                png, alpha = (png, "keep") if keep else (photo.over_white, "drop")
            source = source_name(photo.source, request.provenance)
            tasks.append(
                ImageTask(png, request.mix, versions, masks, edit, photo.fit, source, hashes,
                          None if kind == "JPEG" else alpha)
            )  # fmt: skip
        return tasks

    async def _read_masks(
        self, request: StylizeRequest, photos: list[StoredPhoto]
    ) -> dict[str, bytes]:
        """The masks by name, at the base's size. Raises ApiError."""
        masks = {}
        for name, data in request.masks.items():
            field = f"masks.{name}"
            masks[name], size = await asyncio.to_thread(
                mask_png, data, field, self.sizes.image_size, request.fit, self.config.limits
            )
            for photo in photos:
                if problem := shape_problem(size, photo.size):
                    raise ApiError(422, f"{field} {problem}", field=field)
        return masks

    def _resolve(self, mix: Mix) -> tuple[dict[str, StyleVersion], Tensor | None]:
        """Registered versions by style, and the text edit's direction. Raises ApiError."""
        try:
            mix.check_on(self.sizes)
        except InvalidInputError as e:
            raise invalid(e, "mix") from None
        versions = {}
        for i, share in enumerate(mix.styles):
            try:
                versions[share.style] = self.catalog.resolve(share.style)
            except UserError as e:
                raise ApiError(422, str(e), field=f"mix.styles[{i}].style",
                               value=share.style) from None  # fmt: skip
        if mix.text_edit is None:
            return versions, None
        try:
            edit = find_text_edit(self.home, mix.text_edit, self.info["fingerprint"])
        except UserError as e:
            raise ApiError(422, str(e), field="mix.text_edit", value=mix.text_edit) from None
        return versions, edit.direction

    async def read_photo(self, sent: SentFile, fit: str) -> StoredPhoto:
        """Decode a sent photo and make it square. Raises ApiError."""
        square = await asyncio.to_thread(
            square_photo, sent.data, sent.field, self.sizes.image_size, fit, self.config.limits
        )
        return StoredPhoto(square.png, fit, sent.name, square.size, square.over_white)

    async def get_photo(self, key: str, index: int) -> StoredPhoto:
        """The stored photo of ``encodings[index]``. Raises ApiError 404."""
        photo: StoredPhoto | None = await self.state.get_photo.remote(key)
        if photo is None:
            raise ApiError(404, f"encoding {key[:64]!r} is unknown or has expired; send the photo "
                           "to /v1/encodings again", field=f"encodings[{index}]",
                           value=key)  # fmt: skip
        return photo

    async def store_photo(self, photo: StoredPhoto) -> str:
        """Store a photo and return its id."""
        key = photo_id(photo.png)
        await self.state.put_photo.remote(key, photo)
        return key

    async def run_all(self, tasks: list[ImageTask]) -> list[Result]:
        """Run tasks concurrently; the first error cancels the others. Raises ApiError."""
        running = [asyncio.create_task(self.run(task)) for task in tasks]
        try:
            return list(await asyncio.gather(*running))
        except BaseException:
            for each in running:
                each.cancel()
            raise

    async def run(self, task: ImageTask) -> Result:
        """Run a task on an engine, and on another engine if that one dies. Raises ApiError."""
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import RayServeException

        for attempt in range(1, MAX_ATTEMPTS + 1):
            response = self.engines.run.remote(task)
            try:
                outcome = await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except (RayActorError, RayServeException) as e:
                # Retries are safe: stylization is a pure function.
                self.counters.add("engine_retries_total")
                if attempt == MAX_ATTEMPTS:
                    raise ApiError(503, f"engines failed {attempt} times; try again",
                                   retry_after=self.admission.retry_after() + 5) from e  # fmt: skip
                await asyncio.sleep(0.3 * attempt)
                continue
            if isinstance(outcome, Result):
                self.admission.throughput.record_image()
                self.counters.add("images_total")
                return outcome
            if isinstance(outcome, StyleFailedError):
                raise ApiError(503, str(outcome), field="mix.styles", retry_after=10)
            if isinstance(outcome, InvalidInputError):
                raise invalid(outcome, "mix")
            raise ApiError(422, str(outcome), field="mix")
        raise AssertionError("unreachable")


def current() -> Service:
    """This process's service. Raises RuntimeError before ``install``."""
    if _current is None:
        raise RuntimeError("the service has not been started in this process")
    return _current


def install(service: Service) -> None:
    """Set this process's service."""
    global _current
    _current = service


def _logger(path: str | None) -> logging.Logger:
    """Logger of JSON lines, to a file or standard error."""
    log = logging.getLogger("style_factory.serving")
    log.setLevel(logging.INFO)
    log.propagate = False
    if not log.handlers:
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        log.addHandler(logging.FileHandler(path) if path else logging.StreamHandler(sys.stderr))
        log.handlers[0].setFormatter(logging.Formatter("%(message)s"))
    return log


def log_event(service: Service, **fields: Any) -> None:
    """Write one JSON line. Never pass image data or API keys."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    service.log.info(json.dumps({"time": now, "process": os.getpid(), **fields}))

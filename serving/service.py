"""The router: admits requests, resolves their styles, sends them to engines, and gives up politely.

One in a process of the ingress; routes reach it by ``current()``.
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
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Request

from factory.core.home import Home
from factory.core.text_edits import find_text_edit
from factory.registry import StyleVersion
from osasis.bundles.base import read_base_info
from osasis.errors import UserError
from osasis.mix import Mix
from osasis.networks.sizes import DiffAEConfig
from osasis.validation import InvalidInputError
from serving.admission import Admission
from serving.auth import Keys
from serving.bodies import SentFile, StylizeRequest
from serving.config import ServeConfig
from serving.engine import Result, ServedVersion, Work
from serving.errors import ApiError, invalid
from serving.keeper import KeptPhoto
from serving.metrics import Counters
from serving.request_images import arm, mask_png, photo_id, square_png
from serving.served_styles import StyleCatalog
from serving.style_loader import StyleFailedError

T = TypeVar("T")
TRIES = 4
BEAT = 1.0
_current: Service | None = None


class Service:
    """See the module. engines, keeper: handles of the deployments."""

    def __init__(self, config: ServeConfig, engines: Any, keeper: Any) -> None:
        self.config, self.engines, self.keeper = config, engines, keeper
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
        # Work for jobs goes to the engines a batch at a time, so that it never fills their queues.
        self.job_turn = asyncio.Semaphore(config.replicas)
        self.open_requests = 0
        self.draining = False
        self.heard = time.monotonic()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._beating: asyncio.Task[None] | None = None
        self.log = _logger(config.log)
        arm(config.limits)

    def begin(self) -> None:
        """Start what needs the event loop."""
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            samples = {
                **self.counters.samples(),
                "in_flight": float(self.admission.images),
                "open_requests": float(self.open_requests),
                "rejected_total": float(self.admission.refused),
                "draining": float(self.draining),
                "styles_listed": float(len(self.catalog.styles)),
            }
            with contextlib.suppress(Exception):
                self.draining |= await self.keeper.beat.remote(self.name, samples)
                self.heard = time.monotonic()
            await asyncio.sleep(BEAT / 4 if self.draining else BEAT)

    def background(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def retry_after(self) -> int:
        """Seconds until the queue of now is done."""
        return self.admission.retry_after()

    @contextlib.contextmanager
    def open(self, request: Request) -> Iterator[None]:
        """Room for a request's body. Raises ApiError 503, also where the server is closing."""
        if self.draining:
            raise ApiError(503, "this server is closing; no new work is taken", retry_after=10)
        most, length = self.config.limits.body_bytes, request.headers.get("content-length", "")
        with self.admission.body(min(int(length), most) if length.isdecimal() else most):
            yield

    async def in_time(self, work: Awaitable[T]) -> T:
        try:
            return await asyncio.wait_for(work, self.config.limits.seconds)
        except asyncio.TimeoutError:
            most = f"at most {self.config.limits.seconds:g} s"
            raise ApiError(504, "it took longer than is allowed", allowed=most) from None

    async def works(self, asked: StylizeRequest) -> list[Work]:
        """One piece of work a photo, everything resolved. Raises ApiError."""
        photos = [
            KeptPhoto(await self.normalised(sent, asked.fit), asked.fit, sent.name)
            for sent in asked.photos
        ]
        photos += [await self.kept_photo(key, i) for i, key in enumerate(asked.encodings)]
        masks = {
            name: await asyncio.to_thread(
                mask_png, data, f"masks.{name}", self.size, asked.fit, self.config.limits
            )
            for name, data in asked.masks.items()
        }
        versions, edit = await asyncio.to_thread(self._resolve, asked.mix)
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in asked.masks.items()}
        return [
            Work(p.png, asked.mix, versions, masks, edit, p.fit, p.source, hashes) for p in photos
        ]

    @property
    def size(self) -> int:
        return self.sizes.image_size

    def _resolve(self, mix: Mix) -> tuple[dict[str, ServedVersion], Any]:
        try:
            mix.check_on(self.sizes)
        except InvalidInputError as e:
            raise invalid(e, "mix") from None
        versions = {}
        for i, share in enumerate(mix.styles):
            try:
                version = self.catalog.resolve(share.style)
            except UserError as e:
                raise ApiError(422, str(e), field=f"mix.styles[{i}].style",
                               value=share.style) from None  # fmt: skip
            versions[share.style] = served_version(version)
        if mix.text_edit is None:
            return versions, None
        try:
            edit = find_text_edit(self.home, mix.text_edit, self.info["fingerprint"])
        except UserError as e:
            raise ApiError(422, str(e), field="mix.text_edit", value=mix.text_edit) from None
        return versions, edit.direction

    async def normalised(self, sent: SentFile, fit: str) -> bytes:
        """A photo as a PNG of the base's size. Raises ApiError."""
        return await asyncio.to_thread(
            square_png, sent.data, sent.field, self.size, fit, self.config.limits
        )

    async def kept_photo(self, key: str, index: int) -> KeptPhoto:
        """A photo that was sent before. Raises ApiError 404."""
        photo: KeptPhoto | None = await self.keeper.get_photo.remote(key)
        if photo is None:
            raise ApiError(404, f"encoding {key[:64]!r} is not known (any more); send the photo "
                           "to /v1/encodings again", field=f"encodings[{index}]",
                           value=key)  # fmt: skip
        return photo

    async def keep_photo(self, photo: KeptPhoto) -> str:
        """Keep a photo; returns its id."""
        key = photo_id(photo.png)
        await self.keeper.put_photo.remote(key, photo)
        return key

    async def run_all(self, works: list[Work]) -> list[Result]:
        """All of them, together in the engines' batches. The first mistake ends the others."""
        tasks = [asyncio.create_task(self.run(w)) for w in works]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            raise

    async def run(self, work: Work) -> Result:
        """One piece of work on some engine; on another where its engine dies. Raises ApiError."""
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import RayServeException

        for attempt in range(1, TRIES + 1):
            response = self.engines.run.remote(work)
            try:
                outcome = await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except (RayActorError, RayServeException) as e:
                # The work is pure: done twice is as good as once.
                self.counters.add("engine_retries_total")
                if attempt == TRIES:
                    raise ApiError(503, "no engine could finish this; try again",
                                   retry_after=self.retry_after() + 5) from e  # fmt: skip
                await asyncio.sleep(0.3 * attempt)
                continue
            if isinstance(outcome, Result):
                self.admission.pace.done()
                self.counters.add("images_total")
                return outcome
            if isinstance(outcome, StyleFailedError):
                raise ApiError(503, str(outcome), field="mix.styles", retry_after=10)
            if isinstance(outcome, InvalidInputError):
                raise invalid(outcome, "mix")
            raise ApiError(422, str(outcome), field="mix")
        raise AssertionError("unreachable")


def served_version(version: StyleVersion) -> ServedVersion:
    """A registered version as the engines load it."""
    return ServedVersion(version.reference, version.fingerprint, version.folder)


def current() -> Service:
    """This process's service."""
    if _current is None:
        raise RuntimeError("the service has not been started in this process")
    return _current


def install(service: Service) -> None:
    global _current
    _current = service


def _logger(path: str | None) -> logging.Logger:
    """JSON lines, without anything of pictures or keys."""
    log = logging.getLogger("style_factory.serving")
    log.setLevel(logging.INFO)
    log.propagate = False
    if not log.handlers:
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        log.addHandler(logging.FileHandler(path) if path else logging.StreamHandler(sys.stderr))
        log.handlers[0].setFormatter(logging.Formatter("%(message)s"))
    return log


def log_line(service: Service, **fields: Any) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    service.log.info(json.dumps({"time": now, "process": os.getpid(), **fields}))

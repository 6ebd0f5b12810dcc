"""The router: admits requests, resolves their styles and runs them on engines.

Each ingress process has one; routes get it from ``current()``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import Tensor

from factory.core.home import Home
from factory.methods import (
    check_fit,
    check_mix,
    image_size,
    keeps_photo,
    method_of,
    read_base_info,
)
from factory.methods.text_edits import find_text_edit
from factory.registry import StyleVersion
from osasis.choices import ImageFormat
from osasis.errors import UserError
from osasis.images.fitting import FittedPhoto
from osasis.images.masks import shape_problem
from osasis.images.photo_options import PhotoOptions
from osasis.mix import Mix
from osasis.validation import InvalidInputError
from serving.admission import Admission
from serving.auth import Keys
from serving.bodies import OWN_STYLE, StylizeRequest
from serving.config import ServeConfig
from serving.engine import ImageTask, Result
from serving.errors import ApiError, invalid
from serving.forms import SentFile
from serving.made_styles import MadeStyles
from serving.metrics import Counters
from serving.photo_store import PhotoStore, RequestPhoto
from serving.photo_work import AnswerOptions, PhotoWork
from serving.request_images import check_header
from serving.request_masks import PhotoMasks, sent_masks
from serving.served_styles import StyleCatalog
from serving.style_loader import StyleFailedError
from serving.submissions import TaskStatus
from serving.tracing import Tracing

T = TypeVar("T")
TaskReport = Callable[[TaskStatus], None]
# With the index of the photo.
Report = Callable[[int, TaskStatus], None]
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
        folder = self.home.base_folder(config.base)
        self.info = read_base_info(folder)
        self.makes_styles = method_of(self.info).makes_styles(folder)
        self.image_size = image_size(self.info)
        made = MadeStyles(self.home, self.info["fingerprint"], config.made_age)
        self.catalog = StyleCatalog(self.home, self.info["fingerprint"], made)
        self.catalog.poll()
        self.catalog.start(config.poll)
        self.counters = Counters()
        self.name = uuid.uuid4().hex[:12]
        self.admission = Admission(config.queue, config.bodies)
        self.photos = PhotoStore(config, state, self.image_size)
        # Jobs send one batch per engine at a time, so that they never fill the engines' queues.
        self.job_slots = asyncio.Semaphore(config.replicas)
        self.open_requests = 0
        self.draining = False
        self.last_heartbeat = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        self.log = _logger(config.log)
        self.tracing = Tracing(config.traces)
        self.keys = Keys(Path(config.keys) if config.keys else None, self._report_keys)
        self.run_in_background(self._send_heartbeats())

    def _report_keys(self, problem: str) -> None:
        log_event(self, error=f"{problem}; the last valid keys stay in use")

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

    def admit_body(self) -> contextlib.AbstractContextManager[Callable[[int], None]]:
        """``Admission.admit_body``. Raises ApiError 503 while draining."""
        if self.draining:
            raise ApiError(503, "this server is closing and takes no new work", retry_after=10)
        return self.admission.admit_body()

    async def with_timeout(self, work: Awaitable[T]) -> T:
        """Await within ``limits.seconds``. Raises ApiError 504."""
        seconds = self.config.limits.seconds
        try:
            return await asyncio.wait_for(work, seconds)
        except asyncio.TimeoutError:
            raise ApiError(504, "the request took too long",
                           allowed=f"at most {seconds:g} s") from None  # fmt: skip

    async def make_works(
        self, request: StylizeRequest, photos: list[RequestPhoto], kind: ImageFormat
    ) -> list[PhotoWork]:
        """The work of each photo, with resolved styles, masks and text edit. Raises ApiError."""
        keep_alpha = request.keeps_alpha(kind)
        names = [share.mask for share in request.mix.styles]
        fitted = await self.fit(photos, request.options, keep_alpha, all(names))
        masks = await self._read_masks(request, photos, fitted)
        versions, edit = await asyncio.to_thread(self._resolve, request.mix)
        first = versions[request.mix.styles[0].style]
        keeps = all(names) and await asyncio.to_thread(lambda: keeps_photo(first.folder()))
        options = AnswerOptions(
            request.mix, versions, self.info["fingerprint"], kind, request.options, keeps,
            request.provenance,
        )  # fmt: skip
        works = []
        for photo, each, own in zip(photos, fitted, masks, strict=True):
            on_square = await self.photos.in_thread(
                own.on_square, names, self.image_size, request.options, each.size, keeps
            )
            tasks = (ImageTask(s, request.mix, versions, on_square, edit) for s in each.squares)
            works.append(
                PhotoWork(photo.key, photo.stored.source, each, tuple(tasks), options, own)
            )
        return works

    async def fit(
        self,
        photos: list[RequestPhoto],
        options: PhotoOptions,
        keep_alpha: bool,
        masked: bool = False,
    ) -> list[FittedPhoto]:
        """The photos as the base takes them. masked: of ``fit_photo``. Raises ApiError."""
        try:
            check_fit(options, self.info)
        except InvalidInputError as e:
            raise invalid(e) from None
        return [await self.photos.fit(photo, options, keep_alpha, masked) for photo in photos]

    async def _read_masks(
        self, request: StylizeRequest, photos: list[RequestPhoto], fitted: list[FittedPhoto]
    ) -> list[PhotoMasks]:
        """The masks of each photo: those that were sent, and those to propose. Raises ApiError."""
        options, cropped = request.options, request.options.crop is not None
        sent = await self.photos.in_thread(sent_masks, request.masks, options, self.config.limits)
        wanted = {share.mask for share in request.mix.styles if share.mask} - set(sent.images)
        if wanted and options.fit == "align":
            raise ApiError(422, "masks cannot be combined with fit align", field="fit",
                           value="align", allowed="another fit")  # fmt: skip
        found = []
        for photo, each in zip(photos, fitted, strict=True):
            for name, mask in sent.images.items():
                if problem := shape_problem(mask.size, each.size, cropped):
                    raise ApiError(422, f"masks.{name} {problem}", field=f"masks.{name}")
            masks = sent
            for region in sorted(wanted):
                masks = masks.with_png(region, await self.photos.mask(photo, region))
            found.append(masks)
        return found

    def _resolve(self, mix: Mix) -> tuple[dict[str, StyleVersion], Tensor | None]:
        """Registered versions by style, and the text edit's direction. Raises ApiError."""
        try:
            check_mix(mix, self.info)
        except InvalidInputError as e:
            raise invalid(e, "mix") from None
        versions = {}
        for i, share in enumerate(mix.styles):
            try:
                versions[share.style] = self.catalog.resolve(share.style)
            except UserError as e:
                raise ApiError(422, str(e), field=f"mix.styles[{i}].style",
                               value=share.style) from None  # fmt: skip
            chosen = versions[share.style].reference
            same = [name for name, v in versions.items() if v.reference == chosen]
            if len(same) > 1:
                raise ApiError(422, f"{same[0]} and {same[1]} are the same version",
                               field=f"mix.styles[{i}].style", value=share.style,
                               allowed="each version once")  # fmt: skip
        if mix.text_edit is None:
            return versions, None
        try:
            edit = find_text_edit(self.home, mix.text_edit, self.info["fingerprint"])
        except UserError as e:
            raise ApiError(422, str(e), field="mix.text_edit", value=mix.text_edit) from None
        return versions, edit.direction

    async def with_own_style(self, request: StylizeRequest) -> StylizeRequest:
        """The request with the style of its style image, made now. Raises ApiError."""
        if request.style_image is None:
            return request
        made = await self.make_style(request.style_image)
        shares = tuple(
            share.replace(style=made.style) if share.style == OWN_STYLE else share
            for share in request.mix.styles
        )
        return replace(request, mix=request.mix.replace(styles=shares), style_image=None)

    async def make_style(self, image: SentFile) -> StyleVersion:
        """The style of an image, made by an engine unless it is there already. Raises ApiError."""
        await self.photos.in_thread(check_header, image.data, image.field, self.config.limits)
        made = await self.engines.make_style.remote(image.data)
        if isinstance(made, UserError):
            raise ApiError(422, str(made), field=image.field)
        return await asyncio.to_thread(self.catalog.resolve, made)

    async def run_works(
        self, works: list[PhotoWork], report: Report | None = None
    ) -> list[list[Result]]:
        """The results of each work, of whose photos one image each is admitted. Raises ApiError.

        report: called with the index of a work and the status of a task of it.
        """
        tasks = [task for work in works for task in work.tasks]
        owners = [i for i, work in enumerate(works) for _ in work.tasks]
        reports = report and [functools.partial(report, i) for i in owners]
        with self.admission.count_images(max(0, len(tasks) - len(works))):
            results = iter(await self.run_all(tasks, reports))
        return [[next(results) for _ in work.tasks] for work in works]

    async def run_all(
        self, tasks: list[ImageTask], reports: Sequence[TaskReport] | None = None
    ) -> list[Result]:
        """Run tasks concurrently; the first error cancels the others. Raises ApiError.

        reports: of ``run``, for each task.
        """
        own: Sequence[TaskReport | None] = reports or [None] * len(tasks)
        running = [
            asyncio.create_task(self.run(task, report))
            for task, report in zip(tasks, own, strict=True)
        ]
        try:
            return list(await asyncio.gather(*running))
        except BaseException:
            for task in running:
                task.cancel()
            raise

    async def run(self, task: ImageTask, report: TaskReport | None = None) -> Result:
        """Run a task on an engine, and on another engine if that one dies. Raises ApiError.

        report: called with the statuses of the task.
        """
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import RayServeException

        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                outcome = await self._ask_engine(task, report)
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
                log_event(self, error=outcome.detail)
                after = None if outcome.permanent else 10
                raise ApiError(503, outcome.message, field="mix.styles", retry_after=after)
            if isinstance(outcome, InvalidInputError):
                raise invalid(outcome, "mix")
            raise ApiError(422, str(outcome), field="mix")
        raise AssertionError("unreachable")

    async def _ask_engine(self, task: ImageTask, report: TaskReport | None) -> Result | UserError:
        """One attempt of ``run``; its cancellation cancels the task."""
        if report is None:
            response = self.engines.run.remote(task)
        else:
            response = self.engines.options(stream=True).watch.remote(task)
        try:
            if report is None:
                return cast("Result | UserError", await response)
            async for found in response:
                if not isinstance(found, TaskStatus):
                    return cast("Result | UserError", found)
                report(found)
        except asyncio.CancelledError:
            response.cancel()
            raise
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

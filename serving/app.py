"""The Ray Serve deployments (ingress, engine, shared state); ``build`` makes the application."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import ray
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from ray import serve
from ray.serve import Application
from starlette.exceptions import HTTPException

from factory import __version__
from factory.core.gpus import cluster_gpus, fair_share
from factory.core.home import Home
from osasis.errors import UserError
from serving.api import (
    health,
    inspect,
    jobs,
    new_styles,
    openai,
    page,
    photos,
    styles,
    stylize,
)
from serving.config import ServeConfig
from serving.engine import Engine, ImageTask, Result
from serving.errors import ApiError, parameter_error
from serving.middleware import Cors, Head, RequestLog
from serving.schemas import component_schemas, document_keys
from serving.service import HEARTBEAT_SECONDS, Service, current, install
from serving.shared_state import SharedState
from serving.submissions import TaskStatus

# Seconds between two looks at a watched task.
STATUS_SECONDS = 0.1


def make_app() -> FastAPI:
    """The FastAPI application. Its routes use the service that ``install`` has set."""

    # FastAPI's own documentation pages load scripts from a CDN.
    app = FastAPI(title="style-factory", version=__version__, docs_url=None, redoc_url=None)
    for module in (stylize, photos, inspect, jobs, openai, styles, new_styles, health, page):
        app.include_router(module.router)
    app.exception_handler(ApiError)(_api_error)
    app.exception_handler(RequestValidationError)(_validation_error)
    app.exception_handler(HTTPException)(_http_error)
    for middleware in (Head, Cors, RequestLog):  # the last one comes first
        app.add_middleware(middleware)
    default = app.openapi

    def openapi() -> dict[str, Any]:
        schema = default()
        schema["components"]["schemas"].update(component_schemas())
        if current().keys.keys is not None:
            document_keys(schema)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


async def _api_error(_: Request, e: ApiError) -> JSONResponse:
    return JSONResponse(e.body(), e.status, headers=e.headers)


async def _validation_error(_: Request, e: RequestValidationError) -> JSONResponse:
    error = parameter_error(e.errors()[0])
    return JSONResponse(error.body(), error.status)


async def _http_error(request: Request, e: HTTPException) -> Response:
    if e.status_code == 405 and request.method == "OPTIONS":
        return Response(None, 204, headers=e.headers)
    error = ApiError(e.status_code, str(e.detail), field="path" if e.status_code == 404 else None)
    if e.status_code == 405:
        error = ApiError(405, f"the path does not take {request.method[:40]}", field="method",
                         value=request.method, allowed=dict(e.headers or {}).get("Allow")
                         )  # fmt: skip
    return JSONResponse(error.body(), e.status_code, headers=e.headers)


@serve.deployment(name="state", max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
class SharedStateDeployment(SharedState):
    """One replica. Its state is lost if it dies; clients then get 404 and send photos again."""


@serve.deployment(name="engine")
class EngineDeployment:
    """A replica with one engine. settings: fields of ``ServeConfig``."""

    def __init__(self, settings: dict[str, Any], state: Any) -> None:
        import torch

        from factory.methods import load_base
        from serving.made_styles import MadeStyles, StyleMaker
        from serving.served_styles import StyleCatalog

        config = ServeConfig.parse(settings)
        torch.set_num_threads(config.threads)
        home = Home.find(config.home)
        folder = home.base_folder(config.base)
        base = load_base(folder, config.device or "cpu")
        self.engine = Engine(
            base, batch=config.batch, batch_wait=config.batch_wait,
            styles_host=config.styles_host, styles_device=config.styles_device,
            encodings=config.encodings, stall=config.stall,
            encode_calls=config.limits.encode_steps,
        )  # fmt: skip
        self.config, self.state, self.name = config, state, uuid.uuid4().hex[:12]
        made = MadeStyles(home, base.fingerprint, config.made_age)
        self.maker = StyleMaker(base, home, made)
        if base.method.makes_styles(folder):
            self.maker.warm_up()  # before health checks begin, to which it would look like a stall
        self.catalog = StyleCatalog(home, base.fingerprint, made)
        self.catalog.poll()
        self._preload(list(self.catalog.styles)[: config.prewarm])
        if config.pinned:
            self.catalog.start(config.poll, self._preload)
        self._heartbeats = asyncio.create_task(self._send_heartbeats())

    def _preload(self, more: Sequence[str] = ()) -> None:
        """Load and pin the pinned styles; load ``more``. Requests report styles that fail."""
        pinned = []
        for name in dict.fromkeys([*self.config.pinned, *more]):
            with contextlib.suppress(UserError):
                version = self.catalog.resolve(name)
                self.engine.loader.submit(version).result()
                if name in self.config.pinned:
                    pinned.append(version.reference)
        self.engine.styles.pin(pinned)

    async def run(self, task: ImageTask) -> Result | UserError:
        """The result, or the error of an invalid task or a style that cannot be loaded."""
        future = self.engine.submit(task)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.abandon()
            raise
        except UserError as e:
            return e

    async def watch(self, task: ImageTask) -> AsyncIterator[TaskStatus | Result | UserError]:
        """The statuses of a task, as they change, then what ``run`` returns."""
        future, shown = self.engine.submit(task), None
        ended = asyncio.wrap_future(future)
        try:
            while not ended.done():
                if (status := future.status(self.engine.taken)) != shown:
                    yield (shown := status)
                await asyncio.wait([ended], timeout=STATUS_SECONDS)
            error = ended.exception()
            if error is not None and not isinstance(error, UserError):
                raise error
            yield error or ended.result()
        finally:
            future.abandon()  # no effect on a finished task

    async def make_style(self, image: bytes) -> str | UserError:
        """The name of the style of an image file, or the error of the image or the base."""
        try:
            made = self.engine.call(functools.partial(self.maker.make, image))
            return cast(str, await asyncio.wrap_future(made))
        except UserError as e:
            return e

    async def problem(self) -> str | None:
        return self.engine.problem()

    async def _send_heartbeats(self) -> None:
        while True:
            with contextlib.suppress(Exception):
                await self.state.heartbeat.remote(self.name, self.engine.stats())
            await asyncio.sleep(HEARTBEAT_SECONDS)

    def check_health(self) -> None:
        if problem := self.engine.problem():
            raise RuntimeError(problem)


@serve.deployment(name="ingress")
@serve.ingress(make_app())
class Ingress:
    """A replica with the HTTP application and a service. settings: fields of ``ServeConfig``."""

    def __init__(self, settings: dict[str, Any], engines: Any, state: Any) -> None:
        install(Service(ServeConfig.parse(settings), engines, state))

    def check_health(self) -> None:
        current()


def engine_gpus(config: ServeConfig) -> float:
    """GPUs that Ray reserves for each engine; by default, the engines share the cluster's.

    Raises UserError where a GPU was asked for and the cluster has none.
    """
    if config.engine_gpus is not None or config.device == "cpu":
        return config.engine_gpus or 0.0
    gpus = cluster_gpus() if ray.is_initialized() else 0
    if gpus:
        return fair_share(gpus, config.replicas)
    if config.device == "cuda":
        raise UserError(
            "device is cuda, but the cluster has no GPU; leave device out to serve "
            "from CPUs, or set engine_gpus where nodes with GPUs are still to join"
        )
    return 0.0


def build(args: dict[str, Any]) -> Application:
    """The application, for ``serve run serving.app:build`` and configuration files.

    args: fields of ``ServeConfig``. Raises UserError.
    """
    config = ServeConfig.parse(args)
    gpus = engine_gpus(config)
    settings = config.to_dict() | {"device": config.device or ("cuda" if gpus else "cpu")}
    settings["engine_gpus"] = gpus
    resources: dict[str, Any] = {"num_cpus": config.engine_cpus}
    if gpus:
        resources["num_gpus"] = gpus
    state = cast(Any, SharedStateDeployment).bind(
        config.photos, config.jobs, config.job_bytes, config.job_age
    )
    engine = (
        cast(Any, EngineDeployment)
        .options(
            num_replicas=config.replicas,
            ray_actor_options=resources,
            # Admission bounds the queue; admitted tasks wait in the engine, which batches them.
            max_ongoing_requests=config.queue * config.ingresses + 16,
            graceful_shutdown_timeout_s=config.drain,
            health_check_period_s=5,
            health_check_timeout_s=30,
        )
        .bind(settings, state)
    )
    ingress: Any = Ingress
    return ingress.options(
        num_replicas=config.ingresses,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=1000,
        max_queued_requests=1000,
        graceful_shutdown_timeout_s=config.drain,
    ).bind(settings, engine, state)

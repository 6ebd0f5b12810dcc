"""The deployments on Ray Serve: ingress, engine, keeper; ``build`` makes the application."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from ray import serve
from ray.serve import Application
from starlette.exceptions import HTTPException

from factory import __version__
from factory.core.home import Home
from osasis.errors import UserError
from serving.api import health, jobs, styles, stylize
from serving.config import ServeConfig
from serving.engine import Engine, Result, Work, abandon
from serving.errors import ApiError, shown
from serving.keeper import Keeper
from serving.schemas import component_schemas, document_keys
from serving.service import Service, current, install, log_line


def make_app() -> FastAPI:
    """The HTTP side; its routes find the process's service themselves."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        current().begin()
        yield

    # The framework's own pages of documentation fetch scripts from outside.
    app = FastAPI(title="style-factory", version=__version__, lifespan=lifespan,
                  docs_url=None, redoc_url=None)  # fmt: skip
    for module in (stylize, jobs, styles, health):
        app.include_router(module.router)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(Watched)
    default = app.openapi

    def openapi() -> dict[str, Any]:
        schema = default()
        schema["components"]["schemas"].update(component_schemas())
        if current().keys.keys is not None:
            document_keys(schema)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


class Watched:
    """Counts and logs requests; an unforeseen error is a JSON answer too."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        service = current()
        work = scope["method"] == "POST"
        service.open_requests += work
        started, status, request_id = time.monotonic(), [499], uuid.uuid4().hex[:16]

        async def watched(message: Any) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                message["headers"] = [
                    *message.get("headers", []), (b"x-log-id", request_id.encode())
                ]  # fmt: skip
            await send(message)

        failure = None
        try:
            await self.app(scope, receive, watched)
        except Exception as e:
            failure = f"{type(e).__name__}: {e}"[:500]
            if status[0] != 499:
                raise
            body = {"error": {"status": 500, "message": f"unforeseen; request {request_id}"}}
            await JSONResponse(body, 500)(scope, receive, watched)
        finally:
            service.open_requests -= work
            seconds = time.monotonic() - started
            route = getattr(scope.get("route"), "path", "other")
            service.counters.add("requests_total", route=route, status=status[0])
            service.counters.observe("request_seconds", seconds)
            fields = {"error": failure} if failure else {}
            log_line(service, request=request_id, method=scope["method"], route=route,
                     status=status[0], seconds=round(seconds, 4),
                     key=scope.get("state", {}).get("key"), **fields)  # fmt: skip


async def _api_error(_: Request, e: Exception) -> JSONResponse:
    assert isinstance(e, ApiError)
    return JSONResponse(e.body(), e.status, headers=e.headers)


async def _invalid(_: Request, e: Exception) -> JSONResponse:
    assert isinstance(e, RequestValidationError)
    first = e.errors()[0]
    field = ".".join(str(p) for p in first["loc"][1:])
    error = ApiError(422, f"{field}: {first['msg']}", field=field, value=shown(first.get("input")))
    return JSONResponse(error.body(), 422)


async def _http_error(_: Request, e: Exception) -> JSONResponse:
    assert isinstance(e, HTTPException)
    error = ApiError(e.status_code, str(e.detail), field="path" if e.status_code == 404 else None)
    return JSONResponse(error.body(), e.status_code, headers=e.headers)


@serve.deployment(name="keeper", max_ongoing_requests=1000)
class KeeperDeployment(Keeper):
    """One replica; its state is lost where it dies, and clients are told what to send again."""


@serve.deployment(name="engine")
class EngineDeployment:
    """An engine over the base, and what it tells Serve and the keeper."""

    def __init__(self, settings: dict[str, Any], keeper: Any) -> None:
        import torch

        from factory.core.local_ray import usable_cpus
        from osasis.bundles.base import load_base
        from serving.served_styles import StyleCatalog

        config = ServeConfig.parse(settings)
        device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
        torch.set_num_threads(config.threads or max(1, usable_cpus() // config.replicas))
        home = Home.find(config.home)
        base = load_base(home.base_folder(config.base), device)
        self.engine = Engine(
            base, batch=config.batch, batch_wait=config.batch_wait,
            styles_host=config.styles_host, styles_device=config.styles_device,
            encodings=config.encodings, stall=config.stall,
        )  # fmt: skip
        self.config, self.keeper, self.name = config, keeper, uuid.uuid4().hex[:12]
        self.catalog = StyleCatalog(home, base.fingerprint)
        self.catalog.poll()
        self._warm(list(self.catalog.styles)[: config.prewarm])
        if config.pinned:
            self.catalog.start(config.poll, self._warm)
        self._beating: Any = None

    def _warm(self, more: list[str] | None = None) -> None:
        """Load the pinned styles, and ``more``; a broken one is told to those who ask for it."""
        keys = []
        for name in dict.fromkeys([*self.config.pinned, *(more or [])]):
            with contextlib.suppress(UserError):
                version = self.catalog.resolve(name)
                self.engine.loads.now(version.reference, version.folder)
                if name in self.config.pinned:
                    keys.append(version.reference)
        self.engine.styles.pin(keys)

    async def run(self, work: Work) -> Result | UserError:
        """The result, or what was wrong with the work or its styles."""
        self._begin()
        future = self.engine.submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            abandon(future)
            raise
        except UserError as e:
            return e

    async def problem(self) -> str | None:
        self._begin()
        return self.engine.problem()

    async def process(self) -> int:
        """Its process id, for tests that end it."""
        return os.getpid()

    def _begin(self) -> None:
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(Exception):
                await self.keeper.beat.remote(self.name, self.engine.stats())
            await asyncio.sleep(1.0)

    def check_health(self) -> None:
        if problem := self.engine.problem():
            raise RuntimeError(problem)


@serve.deployment(name="ingress")
@serve.ingress(make_app())
class Ingress:
    """HTTP and routing."""

    def __init__(self, settings: dict[str, Any], engines: Any, keeper: Any) -> None:
        install(Service(ServeConfig.parse(settings), engines, keeper))

    def check_health(self) -> None:
        current()


def build(args: dict[str, Any]) -> Application:
    """The application, for ``serve run serving.app:build`` and configuration files.

    args: fields of ``ServeConfig``. Raises UserError.
    """
    config = ServeConfig.parse(args)
    settings = config.to_dict()
    resources: dict[str, Any] = {"num_cpus": config.engine_cpus}
    if config.engine_gpus:
        resources["num_gpus"] = config.engine_gpus
    keeper: Any = (
        cast(Any, KeeperDeployment)
        .options(ray_actor_options={"num_cpus": 0})
        .bind(config.photos, config.jobs, config.job_age)
    )
    engine = (
        cast(Any, EngineDeployment)
        .options(
            num_replicas=config.replicas,
            ray_actor_options=resources,
            # The router bounds the queue; what it lets in waits in the engine, where it is batched.
            max_ongoing_requests=config.queue * config.ingresses + 16,
            graceful_shutdown_timeout_s=config.drain,
            health_check_period_s=5,
            health_check_timeout_s=30,
        )
        .bind(settings, keeper)
    )
    ingress: Any = Ingress
    return ingress.options(
        num_replicas=config.ingresses,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=1000,
        max_queued_requests=1000,
        graceful_shutdown_timeout_s=config.drain,
    ).bind(settings, engine, keeper)

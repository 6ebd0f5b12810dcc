"""`style-factory serve`: starts Ray Serve and the gate, waits for a signal, drains, stops."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.failures import describe_failure
from factory.core.home import Home
from factory.core.ports import free_port
from factory.methods import read_base_info
from osasis.errors import UserError
from serving.auth import read_keys
from serving.config import ServeConfig

if TYPE_CHECKING:
    from serving.served_styles import StyleCatalog

APP_NAME = "style-factory"
Report = Callable[[str], None]


def check(config: ServeConfig, host: str, port: int) -> dict[str, Any]:
    """Check settings, address, base and keys, and load every style that would be served.

    Returns url, base, styles and replicas. Raises UserError.
    """
    _probe(host, 0)  # the port may be that of a running server
    facts, catalog = _inspect(config, host, port)
    _verify(catalog)
    return facts


def _inspect(config: ServeConfig, host: str, port: int) -> tuple[dict[str, Any], StyleCatalog]:
    """What would be served. Raises UserError."""
    from serving.served_styles import StyleCatalog
    from serving.tracing import Tracing

    home = _existing_home(config)
    info = read_base_info(home.base_folder(config.base))
    if config.keys:
        read_keys(Path(config.keys))
    Tracing(config.traces)
    config.segmenter.check("subject")
    catalog = StyleCatalog(home, info["fingerprint"])
    catalog.poll()
    if catalog.error:
        raise UserError(f"the registry cannot be read: {catalog.error}")
    for name in config.pinned:
        catalog.resolve(name)
    facts = {
        "url": f"http://{f'[{host}]' if ':' in host else host}:{port}",
        "base": info["name"],
        "styles": sum(s.problem is None for s in catalog.styles.values()),
        "replicas": config.replicas,
    }
    return facts, catalog


def _existing_home(config: ServeConfig) -> Home:
    """The home. Raises UserError where there is none: a server has nothing to serve from it."""
    home = Home.find(config.home)
    if home.uri is None and not home.path.is_dir() and home.tracking_uri == home.own_tracking_uri:
        raise UserError(
            f"there is no home at {home.path}; name one with --home, or train styles with "
            "`style-factory train`"
        )
    return home


def _verify(catalog: StyleCatalog) -> None:
    """Read the weights of every usable style. Raises UserError that names the damaged ones."""
    from factory.registry.bundles import check_finite

    problems = []
    for style in catalog.styles.values():
        if style.version.base not in ("", catalog.base):
            continue
        problem = style.problem
        try:
            if problem is None:
                check_finite(style.version.folder())
        except Exception as e:  # damaged files raise errors of any type
            problem = " ".join(str(e).split()) or type(e).__name__
        if problem is not None:
            problems.append(f"style {style.version.reference}: {problem}")
    if problems:
        raise UserError("; ".join(problems) + "; restore the files, or delete the styles")


def run(
    config: ServeConfig,
    host: str,
    port: int,
    ready: Callable[[dict[str, Any]], None],
    report: Report = lambda line: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish all accepted requests. Raises UserError.

    ready: called with what ``check`` returns once the server answers. report: prints a line.
    """
    facts, catalog = _inspect(config, host, port)
    _probe(host, port)
    for line in _startup_lines(facts, catalog):
        report(line)
    os.environ.setdefault("RAY_SERVE_ENABLE_HA_PROXY", "0")
    # Ray lowers the priority of its workers by default; requests are interactive.
    os.environ.setdefault("RAY_worker_niceness", "0")
    from ray import serve

    from factory.core.ray_cluster import cluster_address, connect, stop_ray

    stop = threading.Event()
    where = cluster_address()
    report(f"starting Ray on this machine, {config.replicas} engine(s)" if where is None
           else f"connecting to Ray at {where}")  # fmt: skip
    connect(math.ceil(config.engine_cpus * config.replicas))
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        _check_gpus(config)
        with _listening(config, host, port, local=where is None):
            _deploy(config)
            if not stop.is_set():
                ready(facts)
            stop.wait()
            report("closing: finishing accepted requests")
            _drain(config.drain)
    finally:
        # A local Ray ends as a whole. On a cluster, Serve would go on.
        if where is not None:
            serve.shutdown()
        stop_ray()


def _deploy(config: ServeConfig) -> None:
    """Start the application on Ray. Raises UserError where its replicas do not start."""
    from ray import serve

    from serving.app import build

    try:
        serve.run(build(config.to_dict()), name=APP_NAME, route_prefix="/")
    except RuntimeError as e:
        raise UserError(f"the server did not start: {describe_failure(e)}") from e


@contextlib.contextmanager
def _listening(config: ServeConfig, host: str, port: int, local: bool) -> Iterator[None]:
    """Start Serve's HTTP proxy and, on this machine, the gate in front of it."""
    from ray import serve

    from serving.gate import Gate, GateLimits

    options: dict[str, Any] = {"root_path": config.root_path}
    if not local:
        serve.start(http_options={**options, "host": host, "port": port})
        yield
        return
    inner = free_port()
    serve.start(http_options={**options, "host": "127.0.0.1", "port": inner})
    limits = GateLimits(config.connections, config.client_connections, config.head_seconds)
    gate = Gate(inner, limits)
    try:
        gate.listen(host, port)
        yield
    finally:
        gate.close()


def _startup_lines(facts: dict[str, Any], catalog: StyleCatalog) -> Iterator[str]:
    styles = catalog.styles.items()
    yield f"base {facts['base']}"
    usable = [name for name, style in styles if style.problem is None]
    shown = ", ".join(usable[:8]) + (", ..." if len(usable) > 8 else "")
    yield f"{len(usable)} style(s): {shown or 'none; train some with `style-factory train`'}"
    for name, style in styles:
        if style.problem is not None:
            yield f"style {name} is not served: {style.problem}"


def _check_gpus(config: ServeConfig) -> None:
    """Raise UserError where engines ask for GPUs that a local Ray or PyTorch lacks.

    Serve would wait for the GPUs without end. A cluster may add nodes.
    """
    from factory.core.gpus import check_gpu, cluster_gpus, workers_on
    from factory.core.ray_cluster import cluster_address

    gpus, share = cluster_gpus(), config.engine_gpus
    if share and cluster_address() is None and workers_on(gpus, share) < config.replicas:
        raise UserError(
            f"engine_gpus is {share:g} for {config.replicas} engine(s), but this machine has "
            f"{gpus} GPU(s); lower engine_gpus or replicas, or set engine_gpus to 0 to serve from "
            "the CPU"
        )
    if gpus and share != 0 and config.device != "cpu":
        check_gpu()


def _drain(seconds: float) -> None:
    """Refuse new work; wait up to ``seconds`` until all accepted requests are answered."""
    from ray import serve

    state: Any = serve.get_deployment_handle("state", APP_NAME)
    end = time.monotonic() + seconds
    idle_polls = 0
    while time.monotonic() < end and idle_polls < 3:
        time.sleep(0.5)
        idle = False
        # Repeated, because the actor may be slow or restarted.
        with contextlib.suppress(Exception):
            idle = state.drain.remote().result(timeout_s=10)
        idle_polls = idle_polls + 1 if idle else 0


def _probe(host: str, port: int) -> None:
    """Raise UserError if the address cannot be bound. port: 0 for any."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as e:
        shown = f"{host}:{port}" if port else host
        reason = (getattr(e, "strerror", None) or str(e)).lower()
        raise UserError(
            f"{shown} cannot be used ({reason}); choose another with --port or --host"
        ) from None


def page_url(facts: dict[str, Any]) -> str:
    """The address of the page for a browser on this machine."""
    host, _, port = facts["url"].removeprefix("http://").rpartition(":")
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host.strip("[]")).is_unspecified:
            host = "127.0.0.1"
    return f"http://{host}:{port}/"

"""`style-factory serve`: start, wait, drain, stop."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from factory.core.home import Home
from osasis.bundles.base import read_base_info
from osasis.errors import UserError
from serving.config import ServeConfig

NAME = "style-factory"


def check(config: ServeConfig, host: str, port: int) -> dict[str, Any]:
    """What would be served. Raises UserError for what would not work."""
    home = Home.find(config.home)
    info = read_base_info(home.base_folder(config.base))
    if config.keys:
        from pathlib import Path

        from serving.auth import read_keys

        read_keys(Path(config.keys))
    from serving.served_styles import StyleCatalog

    catalog = StyleCatalog(home, info["fingerprint"])
    catalog.poll()
    if catalog.error:
        raise UserError(f"the registry cannot be read: {catalog.error}")
    for name in config.pinned:
        catalog.resolve(name)
    return {
        "url": f"http://{host}:{port}",
        "base": info["name"],
        "styles": sum(s.problem is None for s in catalog.styles.values()),
        "replicas": config.replicas,
    }


def run(
    config: ServeConfig,
    host: str,
    port: int,
    ready: Callable[[dict[str, Any]], None],
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was accepted. Raises UserError."""
    facts = check(config, host, port)
    _free(host, port)
    os.environ.setdefault("RAY_SERVE_ENABLE_HA_PROXY", "0")
    # Ray gives way to all other programs of the machine; somebody waits for an answer here.
    os.environ.setdefault("RAY_worker_niceness", "0")
    from ray import serve

    from factory.core.ray_cluster import connect, stop_ray
    from serving.app import build

    stop = threading.Event()
    connect(math.ceil(config.engine_cpus * config.replicas))
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        serve.start(http_options={"host": host, "port": port})
        serve.run(build(config.to_dict()), name=NAME, route_prefix="/")
        if not stop.is_set():
            ready(facts)
        stop.wait()
        say("closing: finishing what was accepted")
        _drain(config.drain)
    finally:
        serve.shutdown()
        stop_ray()


def _drain(seconds: float) -> None:
    """No new work; wait until the ingresses have answered all that they accepted."""
    from ray import serve

    keeper: Any = serve.get_deployment_handle("keeper", NAME)
    end = time.monotonic() + seconds
    quiet = 0
    while time.monotonic() < end and quiet < 3:
        time.sleep(0.5)
        idle = False
        # A keeper that is slow, or has been started anew, is told again.
        with contextlib.suppress(Exception):
            idle = keeper.drain.remote().result(timeout_s=10)
        quiet = quiet + 1 if idle else 0


def _free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as e:
            raise UserError(
                f"{host}:{port} cannot be used ({(e.strerror or str(e)).lower()}); "
                "choose another with --port or --host"
            ) from None

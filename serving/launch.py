"""`style-factory serve`: starts Ray Serve, waits for a signal, drains, stops."""

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
from pathlib import Path
from typing import Any

from factory.core.home import Home
from factory.methods import read_base_info
from osasis.errors import UserError
from serving.auth import read_keys
from serving.config import ServeConfig

APP_NAME = "style-factory"


def check(config: ServeConfig, host: str, port: int) -> dict[str, Any]:
    """Check settings, base, keys and styles. Returns url, base, styles and replicas.

    Raises UserError.
    """
    home = Home.find(config.home)
    info = read_base_info(home.base_folder(config.base))
    if config.keys:
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
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish all accepted requests. Raises UserError.

    ready: called with the result of ``check`` once the server answers. report: prints a line.
    """
    facts = check(config, host, port)
    _check_port(host, port)
    os.environ.setdefault("RAY_SERVE_ENABLE_HA_PROXY", "0")
    # Ray lowers the priority of its workers by default; requests are interactive.
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
        _check_gpus(config)
        serve.start(http_options={"host": host, "port": port})
        serve.run(build(config.to_dict()), name=APP_NAME, route_prefix="/")
        if not stop.is_set():
            ready(facts)
        stop.wait()
        report("closing: finishing accepted requests")
        _drain(config.drain)
    finally:
        serve.shutdown()
        stop_ray()


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


def _check_port(host: str, port: int) -> None:
    """Raise UserError if the address cannot be bound."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as e:
            raise UserError(
                f"{host}:{port} cannot be used ({(e.strerror or str(e)).lower()}); "
                "choose another with --port or --host"
            ) from None

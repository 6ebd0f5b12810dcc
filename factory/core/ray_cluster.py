"""Ray: connect to the cluster that RAY_ADDRESS names, or start a local one. Imports no torch.

This module changes no signal handler and no environment variable of the caller, and Ray outlives
the thread that called. ``stop_ray`` disconnects, ends what a local Ray has left
running, and deletes its files; it also runs when the process exits.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import re
import signal
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

from factory.core.cgroups import memory_limit
from factory.core.environment import default_environment
from factory.core.local_ray import LocalRay, short_folder
from factory.core.machine import usable_cpus
from osasis.errors import UserError

# Ray reads these variables on import. Without the first, it replaces the SIGTERM handler. Without
# the second, it hides GPUs from tasks that request none, and warns.
DRIVER_ENV = {
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
with default_environment(DRIVER_ENV):
    import ray

# Ray Train's health check notices a slot's end or death after this long; its default is 2 s.
# A shorter interval costs CPU time: at 0.1 s each slot's controller used 5% of a core.
TRAIN_ENV = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
# Nothing preempts the single node of a local Ray. Without the watcher, each slot starts one
# process less.
LOCAL_ENV = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_TRAIN_METRICS_ENABLED": "0"}
# A local Ray has no dashboard that shows metrics, event counts and task histories; collecting the
# metrics alone used 1/60 of a core. Usage statistics would be sent to a server of Ray's makers.
LOCAL_RAY = {
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    "RAY_task_events_report_interval_ms": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
    "RAY_USAGE_STATS_ENABLED": "0",
}
# By default Ray ends a worker process after one idle second. A corpus runs one short task for each
# batch of outputs, and starting a process takes 3 s of a core. Training runs few tasks and leaves
# the default, which frees memory. The log level keeps a warning about the actors of Ray Data, which
# concerns Ray's developers, from the terminal.
CORPUS_ENV = {
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
OBJECT_STORE_BYTES = 200_000_000
# How often a local Ray is started before ``connect`` gives up; a busy machine can be too slow.
STARTS = 3
# Seconds for a cluster's port to accept a connection, and then for Ray to answer.
PORT_SECONDS, CLUSTER_SECONDS = 10.0, 20.0
# Seconds for a local Ray that is starting to be up after Ctrl-C or SIGTERM.
INTERRUPTED_SECONDS = 15.0
CLUSTER_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):\d{1,5}")

_connection: _Connection | None = None
_local: LocalRay | None = None


class _Connection(threading.Thread):
    """Runs ``ray.init`` and lives until Ray is shut down.

    Linux ends a local Ray's processes together with the thread that started them, so this must not
    be a thread of the caller.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(name="ray-connection", daemon=True)
        self.options = options
        self.error: BaseException | None = None
        self.answered, self.released = threading.Event(), threading.Event()

    def run(self) -> None:
        try:
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **self.options)
        except BaseException as e:
            self.error = e
            return
        finally:
            self.answered.set()
        self.released.wait()


def start_ray(slots: int | None = None, *, corpus: bool = False) -> None:
    """Connect to Ray for training or a corpus; does nothing where this process is connected.

    slots: CPUs that a local Ray must offer at least. corpus: use the settings of a corpus job.
    Raises UserError where no Ray answers.
    """
    if ray.is_initialized():
        return
    # A local Ray's processes inherit the environment. A runtime_env would keep Ray from using the
    # worker processes that it starts in advance.
    if cluster_address():
        connect(slots, runtime_env={"env_vars": TRAIN_ENV})
    else:
        settings = TRAIN_ENV | LOCAL_ENV | LOCAL_RAY | (CORPUS_ENV if corpus else {})
        connect(slots, environment=settings)


def cluster_address() -> str | None:
    """The address in RAY_ADDRESS; None where a local Ray is wanted."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return None if address in ("", "local") else address


def connect(
    cpus: int | None = None, *, environment: dict[str, str] | None = None, **options: Any
) -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start a local Ray of at least ``cpus``.

    environment: variables of a local Ray's processes, where the caller's environment does not set
    them. options: further arguments of ``ray.init``. Raises UserError where no Ray answers.
    """
    address = cluster_address()
    # ``ray.init`` sets variables, too.
    with default_environment({**DRIVER_ENV, **(environment or {})}):
        if address:
            _connect_cluster(address, options)
        else:
            _start_local(cpus, options)


def offered_resources() -> dict[str, float]:
    """The cluster's CPUs, GPUs and bytes of memory; of a local Ray, those this process may use."""
    found: dict[str, float] = ray.cluster_resources()
    if _local is not None:
        free = memory_limit() - OBJECT_STORE_BYTES
        found["memory"] = min(found.get("memory", math.inf), max(free, 0))
    return found


def stop_ray() -> None:
    """Disconnect from Ray; a local Ray ends, and with it its processes and files."""
    global _connection, _local
    connection, local = _connection, _local
    _connection = _local = None
    processes = local.processes() if local is not None else []
    # While ``ray.init`` still waits in its thread, Ray cannot be shut down; a local Ray's
    # processes are ended below, and a cluster was not reached.
    if connection is None or connection.answered.is_set():
        ray.shutdown()
    if connection is not None:
        connection.released.set()
    if local is not None:
        local.clean(processes)


atexit.register(stop_ray)


def _start_local(cpus: int | None, options: dict[str, Any]) -> None:
    global _connection, _local
    count = max(cpus or 1, usable_cpus())
    # Ray Train starts several processes for a slot; with Ray's default, one per CPU at a time,
    # Ray prints a warning on two cores.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(2 * count))
    options = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False, **options}
    root = short_folder()
    for attempt in range(1, STARTS + 1):
        _local = LocalRay.prepare(root)
        os.environ.update(_local.environment())
        # "local": without it, Ray connects to the address that an earlier cluster of this
        # machine has left in a file.
        _connection = _Connection({"address": "local", "num_cpus": count, **options})
        _connection.start()
        try:
            _connection.answered.wait()
        except KeyboardInterrupt:
            # ``ray.init`` cannot be cancelled. Ray that has started can be ended whole.
            _connection.answered.wait(INTERRUPTED_SECONDS)
            raise
        error = _connection.error
        if error is None:
            _keep_signal_handlers()
            return
        stop_ray()
        # Ray waits half a minute for its processes and then raises an untyped error.
        if "timed out" not in str(error) or attempt == STARTS:
            raise UserError(
                f"Ray did not start on this machine ({_first_line(error)}); end other programs "
                "that use its cores, or set RAY_ADDRESS to a running cluster"
            ) from error


def _keep_signal_handlers() -> None:
    """Install Python's handlers again, in place of the one for crashes that Ray has put before.

    Ray leaves that one out where this module has imported it first (see ``DRIVER_ENV``).
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.getsignal(number))


def _connect_cluster(address: str, options: dict[str, Any]) -> None:
    global _connection
    _check_address(address)
    _connection = _Connection({"address": address, **options})
    _connection.start()
    if not _connection.answered.wait(CLUSTER_SECONDS):
        raise UserError(
            f"RAY_ADDRESS is {address}: no Ray answers there within {CLUSTER_SECONDS:g} s; "
            "give the address of a Ray head, such as head:6379, or unset RAY_ADDRESS"
        )
    if (error := _connection.error) is not None:
        stop_ray()
        raise UserError(f"RAY_ADDRESS is {address}: {_cluster_problem(error)}") from error
    _keep_signal_handlers()


def _check_address(address: str) -> None:
    """Raise UserError where an address has no form that Ray reads, or nothing listens there."""
    if address == "auto":
        return
    location = address.removeprefix("ray://")
    if not CLUSTER_ADDRESS.fullmatch(location):
        raise UserError(
            f"RAY_ADDRESS is {address}; write HOST:PORT, ray://HOST:PORT or auto, or unset it to "
            "start Ray on this machine"
        )
    try:
        parts = urlsplit(f"//{location}")
        host, port = parts.hostname or "", parts.port or 0
        socket.create_connection((host, port), timeout=PORT_SECONDS).close()
    except (OSError, ValueError) as e:
        why = (getattr(e, "strerror", None) or str(e)).lower()
        raise UserError(
            f"RAY_ADDRESS is {address}: no Ray answers there ({why}); start it, or unset "
            "RAY_ADDRESS"
        ) from None


def _cluster_problem(error: BaseException) -> str:
    """What keeps a cluster from being used, and what to do."""
    text = str(error)
    if "AuthToken" in text or type(error).__name__ == "AuthenticationError":
        return (
            "the cluster refuses this machine's token; set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH "
            "to a file with the cluster's token"
        )
    if "ersion mismatch" in text:
        mine = f"Ray {ray.__version__}"
        return f"the cluster has another version of Ray or Python than this program ({mine})"
    if isinstance(error, ConnectionError):
        return "no Ray answers there; start it, or unset RAY_ADDRESS"
    return f"the connection failed ({_first_line(error)}); check the address, or unset RAY_ADDRESS"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")

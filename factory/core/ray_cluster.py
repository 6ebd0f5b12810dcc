"""Ray: connect to the cluster that RAY_ADDRESS names, or start a local one. Imports no torch."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import Any

import ray

from osasis.errors import UserError

# Ray Train's health check notices a slot's end or death after this long; its default is 2 s.
# A shorter interval costs CPU time: at 0.1 s each slot's controller used 5% of a core.
TRAIN_ENV = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
# A local Ray has one node, which nothing preempts. Without the watcher, each slot starts one
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
# the default, which frees memory.
KEEP_IDLE = {"RAY_idle_worker_killing_time_threshold_ms": "600000"}
# How often a local Ray is started before ``connect`` gives up; a busy machine can be too slow.
STARTS = 3

# Address of the local Ray that this process has started.
_own: str | None = None


def start_ray(slots: int | None = None, *, keep_idle: bool = False) -> None:
    """Connect to Ray for training or a corpus; does nothing where this process is connected.

    slots: CPUs that a local Ray must offer at least. keep_idle: a local Ray keeps its idle worker
    processes for later tasks. Raises UserError where a local Ray does not start.
    """
    if ray.is_initialized():
        return
    cluster = os.environ.get("RAY_ADDRESS")
    train_env = TRAIN_ENV if cluster else TRAIN_ENV | LOCAL_ENV
    local_ray = {} if cluster else LOCAL_RAY | (KEEP_IDLE if keep_idle else {})
    for name, value in {"RAY_TRAIN_V2_ENABLED": "1", **train_env, **local_ray}.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # A local Ray's processes inherit the environment. A runtime_env would keep Ray from using the
    # worker processes that it starts in advance.
    connect(slots, **({"runtime_env": {"env_vars": train_env}} if cluster else {}))
    _stop_like_ctrl_c()


def connect(cpus: int | None = None, **options: Any) -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start a local Ray of at least ``cpus``.

    options: further arguments of ``ray.init``. Raises UserError where a local Ray does not start
    in ``STARTS`` attempts.
    """
    global _own
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        options |= {"object_store_memory": 200_000_000, "include_dashboard": False}
        options["num_cpus"] = max(cpus or 1, os.cpu_count() or 1)
        # Ray Train starts several processes for a slot; with Ray's default, one per CPU at a time,
        # Ray prints a warning on two cores.
        starts = str(2 * options["num_cpus"])
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", starts)
    for attempt in range(1, STARTS + 1):
        try:
            ray.init(
                # "local": without it, Ray connects to the address that an earlier cluster of this
                # machine has left in a file.
                address=address or "local",
                logging_level=logging.ERROR,
                log_to_driver=False,
                **options,
            )
            if not address:
                _own = ray.get_runtime_context().gcs_address
            return
        except Exception as e:
            ray.shutdown()
            # Ray waits half a minute for its processes and then raises an untyped error.
            if address or "timed out" not in str(e):
                raise
            if attempt == STARTS:
                said = " ".join(str(e).split())[:200]
                raise UserError(
                    f"Ray did not start in {STARTS} attempts ({said}); end other programs that "
                    "use this machine's cores, or set RAY_ADDRESS to a running cluster"
                ) from e


def is_own() -> bool:
    """Whether ``connect`` has started the connected Ray, which then ends with this process."""
    return ray.is_initialized() and ray.get_runtime_context().gcs_address == _own


def _stop_like_ctrl_c() -> None:
    """Make SIGTERM, which systemd and Kubernetes send, end a run as Ctrl-C does.

    Ray's own handler, which ``ray.init`` installs, prints a stack trace and aborts the process.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt

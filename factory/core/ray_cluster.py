"""Connects to the Ray cluster at RAY_ADDRESS, or starts a local Ray. Imports no torch."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import Any

import ray

from osasis.errors import UserError

# Ray Train notices the end or death of a slot at its next health check; Ray's default is 2 s.
# Shorter intervals cost CPU time: at 0.1 s each slot's controller used 5% of a core.
TRAIN_ENV = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
# The node of a local Ray is never preempted. Disabling the watcher saves one process per slot.
LOCAL_ENV = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_TRAIN_METRICS_ENABLED": "0"}
# A local Ray has no dashboard to show metrics, event counts and task histories; collecting the
# metrics alone used 1/60 of a core. Usage statistics go to the Ray developers.
LOCAL_RAY = {
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    "RAY_task_events_report_interval_ms": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
    "RAY_USAGE_STATS_ENABLED": "0",
}
# By default Ray ends a worker process after one idle second. A corpus job runs a short task per
# batch of outputs, and starting a process takes 3 s of a core. Training runs few tasks and keeps
# the default, which frees memory.
KEEP_IDLE = {"RAY_idle_worker_killing_time_threshold_ms": "600000"}
# On a busy machine a local Ray can start too slowly; ``connect`` then retries.
START_ATTEMPTS = 3


def start_ray(slots: int | None = None, *, keep_idle: bool = False) -> None:
    """Connect to Ray for training or a corpus job; does nothing where Ray is connected already.

    slots: minimum number of CPUs of a local Ray. keep_idle: a local Ray keeps idle worker
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
    # A local Ray's processes inherit the environment. With a runtime_env, Ray could not use its
    # prestarted worker processes.
    connect(slots, **({"runtime_env": {"env_vars": train_env}} if cluster else {}))
    if threading.current_thread() is threading.main_thread():
        # systemd and Kubernetes send SIGTERM. The handler that ``ray.init`` installs prints a stack
        # trace and aborts the process; a run must end as it does after Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def connect(cpus: int | None = None, **options: Any) -> None:
    """Connect to the cluster at RAY_ADDRESS, or start a local Ray with at least ``cpus`` CPUs.

    options: further arguments of ``ray.init``. Raises UserError where a local Ray does not start
    in ``START_ATTEMPTS`` attempts.
    """
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        options |= {"object_store_memory": 200_000_000, "include_dashboard": False}
        options["num_cpus"] = max(cpus or 1, os.cpu_count() or 1)
        # Ray Train starts several processes per slot; with Ray's default of one process per CPU at
        # a time, Ray prints a warning on two cores.
        concurrency = str(2 * options["num_cpus"])
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", concurrency)
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(
                # Without "local", Ray connects to the address that an earlier cluster on this
                # machine left in a file.
                address=address or "local",
                logging_level=logging.ERROR,
                log_to_driver=False,
                **options,
            )
            return
        except Exception as e:
            ray.shutdown()
            # After half a minute of waiting for its processes, Ray raises an untyped error.
            if address or "timed out" not in str(e):
                raise
            if attempt == START_ATTEMPTS:
                reason = " ".join(str(e).split())[:200]
                raise UserError(
                    f"Ray did not start in {START_ATTEMPTS} attempts ({reason}); end other "
                    "programs that use the cores, or set RAY_ADDRESS to a running cluster"
                ) from e

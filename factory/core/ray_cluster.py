"""Ray: the cluster that RAY_ADDRESS names, or one of this machine's own. Imports no torch."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import ray

from osasis.errors import UserError

# How soon a slot's end or death is noticed, instead of after two seconds. Polling is not free:
# at a tenth of a second every slot's controller took a twentieth of a core.
TRAIN_ENV = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
# On this machine alone no node is taken away: a process less a slot, of many seconds to start.
LOCAL_ENV = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_TRAIN_METRICS_ENABLED": "0"}
# Metrics, counts of events and tasks' histories that nobody reads there: a process of Ray's takes a
# 60th of a core for the first alone. Nor statistics of use, which would leave the machine.
LOCAL_RAY = {
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    "RAY_task_events_report_interval_ms": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
    "RAY_USAGE_STATS_ENABLED": "0",
}
# Ray ends a process after a second without work, and a corpus wants one for every batch that it
# writes: starting it anew, at 3 s of a core, was a tenth of two cores. Training has few tasks, and
# wants the memory back.
KEEP_IDLE = {"RAY_idle_worker_killing_time_threshold_ms": "600000"}
# The version whose insides are known here; parts of another one are not replaced.
KNOWN_RAY = "2.60."
# How often a local Ray is started where the machine is too busy for it.
STARTS = 3

# The address of the local Ray that this process has started.
_own: str | None = None


def start_ray(slots: int | None = None, *, keep_idle: bool = False) -> None:
    """Connect for training or a corpus; nothing where this process is connected.

    keep_idle: a local Ray's processes stay when their tasks have ended, for the next ones.
    """
    if ray.is_initialized():
        return
    cluster = os.environ.get("RAY_ADDRESS")
    train_env = TRAIN_ENV if cluster else TRAIN_ENV | LOCAL_ENV
    local_ray = {} if cluster else LOCAL_RAY | (KEEP_IDLE if keep_idle else {})
    for name, value in {"RAY_TRAIN_V2_ENABLED": "1", **train_env, **local_ray}.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # A local Ray's processes inherit these; with an environment of their own, those that Ray has
    # started in advance could not be used.
    connect(slots, **({"runtime_env": {"env_vars": train_env}} if cluster else {}))
    _stop_like_ctrl_c()


def connect(cpus: int | None = None, **options: Any) -> None:
    """The cluster that RAY_ADDRESS names, or a local one of at least so many CPUs.

    Raises UserError where a local one does not start, several times.
    """
    global _own
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        options |= {"object_store_memory": 200_000_000, "include_dashboard": False}
        options["num_cpus"] = max(cpus or 1, os.cpu_count() or 1)
        # A slot is five processes, and Ray tells the terminal that they are many for two cores.
        starts = str(2 * options["num_cpus"])
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", starts)
    for left in range(STARTS - 1, -1, -1):
        try:
            with nullcontext() if address else _fewer_processes():
                ray.init(
                    # A cluster that once ran here leaves its address behind, and Ray follows it.
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
            # Ray gives a busy machine half a minute, and says so untyped.
            if address or "timed out" not in str(e):
                raise
            if not left:
                said = " ".join(str(e).split())[:200]
                raise UserError(f"Ray did not start, {STARTS} times: {said}") from e


@contextmanager
def _fewer_processes() -> Iterator[None]:
    """A local Ray without the two processes that send logs to drivers and ask a cloud for nodes.

    Nobody here reads the one or has the other. Each takes seconds to start and wakes for ever, on
    the cores that the model wants. ``ray start`` has options for it, ``ray.init`` has none.
    """
    if not ray.__version__.startswith(KNOWN_RAY):
        yield
        return
    from ray._private import parameter

    kept = parameter.RayParams
    without: dict[str, Any] = {"include_log_monitor": False, "no_monitor": True}
    vars(parameter)["RayParams"] = partial(kept, **without)
    try:
        yield
    finally:
        vars(parameter)["RayParams"] = kept


def is_own() -> bool:
    """Whether Ray is one that ``connect`` started for this process, and that ends with it."""
    return ray.is_initialized() and ray.get_runtime_context().gcs_address == _own


def _stop_like_ctrl_c() -> None:
    """SIGTERM, by which systemd and Kubernetes end a job, ends it as Ctrl-C does.

    Ray's own handler, set by its start, prints a stack and aborts.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt

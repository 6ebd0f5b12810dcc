"""What a stream changes of Ray Data while it runs: what costs a CPU, and has no setting.

Ray Data keeps a process each for its dashboard's statistics, for asking a cloud for nodes, and for
where actors are. On a Ray of this process's own, one machine without a dashboard, nobody needs
them, and each takes seconds to start and a hundredth of a core for ever. The names inside Ray are
checked by a test; a Ray of another version is left as it is, and only slower.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# The version whose private parts are replaced.
KNOWN_RAY = "2.60."

NAP_SECONDS = 0.2

_lock = threading.Lock()
_streams = 0
_kept: list[tuple[Any, str, Any]] = []


class Silent:
    """In place of an actor whose word nobody needs: every call does nothing."""

    def __getattr__(self, name: str) -> Silent:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def remote(self, *args: object, **kwargs: object) -> None:
        return None


class Patient:
    """The module ``time``, but for naps: Ray Data wakes a hundred times a second for an output."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    @staticmethod
    def sleep(seconds: float) -> None:
        time.sleep(max(seconds, NAP_SECONDS))


class OneMachine:
    """A cluster that is what it is: in place of an autoscaler (Ray Data's ClusterAutoscaler)."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def try_trigger_scaling(self) -> None:
        pass

    def on_executor_shutdown(self) -> None:
        pass

    def get_total_resources(self) -> Any:
        import ray
        from ray.data import ExecutionResources

        return ExecutionResources.from_resource_dict(ray.cluster_resources())


def _nowhere(actors: object) -> dict[str, str]:
    """Where actors are, as far as is known: Ray Data then goes by what they said at the start."""
    return {}


def replacements(own: bool) -> list[tuple[Any, str, Any]]:
    """Of Ray Data: module, name, and what stands there meanwhile; nothing for another version."""
    import ray

    if not ray.__version__.startswith(KNOWN_RAY):
        return []
    from ray.data._internal import stats
    from ray.data._internal.execution import streaming_executor, streaming_executor_state
    from ray.data._internal.execution.operators import actor_pool_map_operator as pool

    # It looks ten times a second for what has ended, at 4 ms of a core each; set by look_every.
    look = [(streaming_executor_state, "WAIT_FOR_TASK_COMPLETION_TIMEOUT_S", None)]
    if not own:
        return look
    return [
        *look,
        (streaming_executor_state, "time", Patient()),
        (stats, "get_or_create_stats_actor", Silent),
        (streaming_executor, "create_cluster_autoscaler", OneMachine),
        (pool, "get_or_create_actor_location_tracker", Silent),
        (pool, "get_actor_locations", _nowhere),
    ]


@contextmanager
def sparing_the_cpu(own: bool) -> Iterator[Callable[[float], None]]:
    """Yields what sets how often Ray Data looks for what has ended, in seconds.

    own: Ray is this process's own. With several streams at a time the first one's choice holds
    until the last one ends.
    """
    global _streams, _kept
    with _lock:
        if not _streams:
            chosen = replacements(own)
            _kept = [(module, name, getattr(module, name)) for module, name, _ in chosen]
            for module, name, value in chosen:
                if value is not None:
                    setattr(module, name, value)
        _streams += 1

    def look_every(seconds: float) -> None:
        for module, name, _ in _kept[:1]:  # the look comes first; none for another version
            setattr(module, name, seconds)

    try:
        yield look_every
    finally:
        with _lock:
            _streams -= 1
            if not _streams:
                for module, name, value in _kept:
                    setattr(module, name, value)

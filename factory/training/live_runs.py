"""MLflow runs of styles in training: begun with the training, with the losses as they come."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from factory.core.stores import open_store
from factory.registry import Registry
from factory.registry.writing import BegunRun
from factory.reports.style_states import Running, Snapshot
from factory.training.style_worker import RUN_FILE, StyleTask
from osasis.storage import json_bytes

# Seconds between two points of a style's curves.
POINT_SECONDS = 2.0
# File of a style's training folder that names its run, which a resumed training continues.


@dataclass
class _Curve:
    run: BegunRun
    logged_at: float = 0.0


class LiveRuns:
    """The runs of one round of training. A registry that does not answer ends the curves, not the
    training.

    tasks: by style. report: called once with the reason why there are no curves.
    """

    def __init__(
        self, registry: Registry, tasks: Mapping[str, StyleTask], report: Callable[[str], None]
    ) -> None:
        self.registry, self.tasks, self.report = registry, tasks, report
        self._curves: dict[str, _Curve] = {}
        self._ended = False

    def update(self, snapshot: Snapshot) -> None:
        """Begin the runs of styles that have started, and log their newest losses."""
        try:
            for style, state in snapshot.items():
                if isinstance(state, Running) and not self._ended:
                    self._follow(style, state)
        except Exception as e:  # a registry raises errors of any type
            self._ended = True
            self.report(f"no live curves in the registry: {' '.join(str(e).split())[:200]}")

    def _follow(self, style: str, state: Running) -> None:
        if (curve := self._curves.get(style)) is None:
            curve = self._curves[style] = _Curve(self._begin(self.tasks[style]))
        now, progress, steps = time.monotonic(), state.progress, curve.run.steps
        if progress is None or progress.iteration in steps:
            return
        if now - curve.logged_at >= POINT_SECONDS:
            curve.logged_at = now
            self.registry.log_point(curve.run, progress.iteration, progress.losses)

    def _begin(self, task: StyleTask) -> BegunRun:
        """The run of an earlier attempt, else a new one."""
        store = open_store(task.folder)
        with contextlib.suppress(FileNotFoundError):
            run_id = str(json.loads(store.read(RUN_FILE))["run_id"])
            if (found := self.registry.continue_run(run_id)) is not None:
                return found
        run = self.registry.begin_run(task.id, task.settings.to_dict())
        store.write(RUN_FILE, json_bytes({"run_id": run.run_id}))
        return run

    def take(self, style: str) -> BegunRun | None:
        """The run of a trained style, which its registration completes."""
        curve = self._curves.pop(style, None)
        return None if curve is None else curve.run

    def fail(self, style: str, reason: str) -> None:
        """End the run of a style that has failed."""
        if (run := self.take(style)) is not None:
            with contextlib.suppress(Exception):
                self.registry.end_failed(run, reason)

"""Submitted tasks: futures of their results that know how far the work is."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
Stage = Literal["load", "queue", "encode", "decode"]


@dataclass(frozen=True)
class TaskStatus:
    """How far a task is.

    stage: `load` while styles are loaded, `queue` while the task waits. place: tasks that wait
    before it. step, steps: finished and all network calls of the stage `encode` or `decode`.
    """

    stage: Stage = "load"
    place: int = 0
    step: int = 0
    steps: int = 0


class Submission(Future[T], Generic[T]):
    """The future of a task's result. The engine's threads write its fields, any thread reads them.

    ticket: number of the task in the engine's queue; None before it is queued. abandoned: nobody
    waits for the result any more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ticket: int | None = None
        self.stage: Stage = "load"
        self.step = self.steps = 0
        self.abandoned = False

    def enter(self, stage: Stage, step: int = 0, steps: int = 0) -> None:
        """Record the stage of the work and its finished steps."""
        self.step, self.steps, self.stage = step, steps, stage

    def status(self, taken: int) -> TaskStatus:
        """The status. taken: tasks that the engine has taken out of its queue so far."""
        waiting = self.stage == "queue" and self.ticket is not None
        place = max(0, self.ticket - taken) if waiting and self.ticket is not None else 0
        return TaskStatus(self.stage, place, self.step, self.steps)

    def abandon(self) -> None:
        """Cancel the task. Running work stops at its next step once all its tasks are abandoned."""
        if not self.cancel():
            self.abandoned = True


@dataclass
class Call:
    """A function for the engine's thread to call, and the future of its result."""

    function: Callable[[], object]
    future: Future[object]

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self.function())
        except BaseException as e:
            self.future.set_exception(e)

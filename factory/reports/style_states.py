"""States of a style in a training run, and their JSON form."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar


@dataclass(frozen=True)
class Waiting:
    """Not leased. attempts: attempts so far. before: why the last attempt failed."""

    state: ClassVar[str] = "waiting"
    attempts: int = 0
    before: str | None = None


@dataclass(frozen=True)
class Progress:
    """Iteration of an attempt, ``of`` how many, and the losses by name.

    first: time (seconds since the epoch) and iteration of the attempt's first report.
    """

    first: tuple[float, int]
    iteration: int
    of: int
    losses: dict[str, float]

    @property
    def loss(self) -> float:
        return self.losses["total"]


@dataclass(frozen=True)
class Running:
    """Leased. since: time of the lease. progress: None before the first iteration."""

    state: ClassVar[str] = "running"
    slot: int
    node: str
    attempts: int
    since: float
    progress: Progress | None = None


@dataclass(frozen=True)
class Done:
    """Trained. seconds: duration of the last attempt."""

    state: ClassVar[str] = "done"
    seconds: float
    attempts: int


@dataclass(frozen=True)
class Failed:
    """Given up. kind: one of ``factory.core.failures.KINDS``. attempts: 0 if never leased."""

    state: ClassVar[str] = "failed"
    reason: str
    kind: str
    attempts: int = 0
    before: str | None = None


StyleState = Waiting | Running | Done | Failed
# States of all styles of a run, by style id.
Snapshot = dict[str, StyleState]
STATES = {c.state: c for c in (Waiting, Running, Done, Failed)}


def to_dict(state: StyleState) -> dict[str, Any]:
    """The JSON form of a state, progress inlined. Fields with their default value are left out."""
    values = {
        f.name: value for f in fields(state) if (value := getattr(state, f.name)) != f.default
    }
    progress = values.pop("progress", None)
    if progress is not None:
        values |= {**asdict(progress), "loss": progress.loss}
    return {"state": state.state, **values}


def from_dict(data: dict[str, Any]) -> StyleState:
    """The state that ``to_dict`` wrote."""
    values = {k: v for k, v in data.items() if k not in ("state", "loss")}
    if "first" in values:
        progress = {k: values.pop(k) for k in ("first", "iteration", "of", "losses")}
        values["progress"] = Progress(**progress | {"first": tuple(progress["first"])})
    return STATES[data["state"]](**values)

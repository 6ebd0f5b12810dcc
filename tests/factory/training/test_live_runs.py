"""Runs that begin with the training, on a real sqlite MLflow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from factory.core.home import Home
from factory.registry import Registry
from factory.reports.style_states import Progress, Running, Snapshot
from factory.training.live_runs import LiveRuns
from factory.training.style_worker import StyleTask
from osasis.settings import make_settings
from tests.tiny import FEW, write_style


@pytest.fixture(scope="module")
def registry(fresh_home: Callable[[], Path]) -> Registry:
    return Registry(Home(fresh_home()))


def make_task(folder: Path, style: str) -> StyleTask:
    return StyleTask(
        id=style,
        image=folder / "image.png",
        counterpart=None,
        fingerprint=f"print-of-{style}",
        settings=make_settings("default", **FEW),
        folder=folder / style,
        bank=None,
        tags=(),
        licence="",
    )


def at(style: str, iteration: int | None) -> Snapshot:
    """A snapshot of a style in training; ``iteration`` None: before the first."""
    running = Running(0, "node", 1, 0.0)
    if iteration is None:
        return {style: running}
    losses = {"total": 1.0 / iteration, "structure": 0.5}
    return {style: replace(running, progress=Progress((0.0, 1), iteration, 3, losses))}


def steps(registry: Registry, run_id: str, name: str = "total") -> list[int]:
    return [point.step for point in registry.client.get_metric_history(run_id, name)]


@pytest.fixture(autouse=True)
def every_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.training.live_runs.POINT_SECONDS", 0.0)


def test_curves_are_live_and_complete(registry: Registry, tmp_path: Path) -> None:
    task, told = make_task(tmp_path, "oil"), []
    live = LiveRuns(registry, {"oil": task}, told.append)
    live.update(at("oil", None))
    (run,) = registry.client.search_runs([registry.experiment], "run_name = 'oil'")
    run_id = run.info.run_id
    assert (run.info.status, steps(registry, run_id)) == ("RUNNING", [])
    assert run.data.params["iterations"] == "2"
    live.update(at("oil", 2))
    live.update(at("oil", 2))
    assert steps(registry, run_id) == [2]
    # A run that was killed is continued.
    live = LiveRuns(registry, {"oil": task}, told.append)
    live.update(at("oil", 2))
    begun = live.take("oil")
    assert begun is not None and begun.run_id == run_id and begun.steps == {2}
    write_style(task.folder / "style", registry.home.bases / "tiny", "oil")
    version = registry.register(
        "oil", task.folder / "style", fingerprint="f", base="b", params={}, metrics={"lpips": 0.5},
        history=[{"total": 1.0 / i, "structure": 0.5} for i in (1, 2, 3)], run=begun,
        tags={"base_name": "tiny", "licence": "", "tags": ""},
    )  # fmt: skip
    assert version.run_id == run_id and sorted(steps(registry, run_id)) == [1, 2, 3]
    ended = registry.client.get_run(run_id)
    assert ended.info.status == "FINISHED" and ended.info.end_time > ended.info.start_time
    assert {"licence", "tags"}.isdisjoint({*ended.data.tags, *version.tags})
    found = registry.client.get_model_version("oil", str(version.version))
    assert found.description == "Style oil on base tiny, 3 iterations"
    assert told == []


def test_a_failed_training_ends_its_run(registry: Registry, tmp_path: Path) -> None:
    live = LiveRuns(registry, {"ink": make_task(tmp_path, "ink")}, lambda line: None)
    live.update(at("ink", 1))
    live.fail("ink", "the loss is NaN")
    live.fail("ink", "again")
    (run,) = registry.client.search_runs([registry.experiment], "run_name = 'ink'")
    assert (run.info.status, run.data.tags["failure"]) == ("FAILED", "the loss is NaN")


def test_a_registry_that_fails_ends_the_curves_only(registry: Registry, tmp_path: Path) -> None:
    told: list[str] = []
    missing = {"other": make_task(tmp_path, "other")}
    live = LiveRuns(registry, missing, told.append)
    for iteration in (1, 2):
        live.update(at("unknown", iteration))
    assert len(told) == 1 and told[0].startswith("no live curves in the registry")
    assert live.take("unknown") is None

"""What stands in for parts of Ray Data meanwhile, and that nothing is left of it."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest
import ray

from factory.core.home import Home
from pipelines import stylize
from pipelines.ray_data import (
    KNOWN_RAY,
    NAP_SECONDS,
    Patient,
    Silent,
    replacements,
    sparing_the_cpu,
)

EXECUTION = "ray.data._internal.execution."
EXPECTED = [
    (EXECUTION + "streaming_executor_state", "WAIT_FOR_TASK_COMPLETION_TIMEOUT_S"),
    (EXECUTION + "streaming_executor_state", "time"),
    ("ray.data._internal.stats", "get_or_create_stats_actor"),
    (EXECUTION + "streaming_executor", "create_cluster_autoscaler"),
    (EXECUTION + "operators.actor_pool_map_operator", "get_or_create_actor_location_tracker"),
    (EXECUTION + "operators.actor_pool_map_operator", "get_actor_locations"),
]


def standing() -> list[object]:
    return [getattr(module, name) for module, name, _ in replacements(own=True)]


def test_the_ray_here_is_the_one_whose_insides_are_meant() -> None:
    """An upgrade fails here: read what the new one has in these places."""
    assert ray.__version__.startswith(KNOWN_RAY)
    found = [(module.__name__, name) for module, name, _ in replacements(own=True)]
    assert found == EXPECTED
    assert standing()[:2] == [0.1, time]


def test_all_is_as_it_was_afterwards_also_after_a_failure() -> None:
    before = standing()
    with pytest.raises(KeyError), sparing_the_cpu(own=True) as look_every:
        look_every(0.5)
        assert standing()[0] == 0.5
        assert type(standing()[1]) is Patient
        assert standing()[2:] == [value for *_, value in replacements(own=True)][2:]
        raise KeyError
    assert standing() == before


def test_on_a_cluster_only_the_look_changes() -> None:
    before = standing()
    with sparing_the_cpu(own=False) as look_every:
        look_every(0.5)
        assert standing() == [0.5, *before[1:]]
    assert standing() == before


def test_a_second_stream_leaves_the_first_ones_choice_and_the_last_puts_all_back() -> None:
    before = standing()
    first, second = sparing_the_cpu(own=True), sparing_the_cpu(own=False)
    first.__enter__()(0.5)
    chosen = standing()
    second.__enter__()
    first.__exit__(None, None, None)
    assert standing() == chosen
    second.__exit__(None, None, None)
    assert standing() == before


def test_another_ray_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = standing()
    monkeypatch.setattr(ray, "__version__", "2.99.0")
    with sparing_the_cpu(own=True) as look_every:
        look_every(0.5)
        monkeypatch.undo()
        assert standing() == before


def test_naps_are_longer_and_the_clock_is_the_same() -> None:
    patient = Patient()
    before = patient.monotonic()
    patient.sleep(0.01)
    assert time.monotonic() - before >= NAP_SECONDS


def test_what_stands_in_for_an_actor_goes_to_another_process() -> None:
    silent = pickle.loads(pickle.dumps(Silent()))  # as Ray does with what an actor is given
    assert silent.update_actor_location.remote("a", "b") is None


def actors() -> set[str]:
    return {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}


def test_a_stream_on_a_ray_of_ones_own_starts_no_actor_but_the_models(
    gallery: Home, photos: Path, local_ray: None, tmp_path: Path
) -> None:
    before = standing()
    there = actors()  # of training by other tests
    result = stylize(["oil"], photos, tmp_path / "out", home=gallery, size="base")
    assert (result.images, result.errors) == (9, ())
    assert actors() == there
    assert not {"ActorLocationTracker", "datasets_stats_actor"} & there
    assert standing() == before

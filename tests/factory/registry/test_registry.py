"""The registry on a real sqlite MLflow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from factory.core.home import Home
from factory.registry import (
    CHAMPION,
    KIND_TAG,
    Registry,
    RegistrySnapshot,
    StyleVersion,
)
from osasis.bundles.style import load_style
from osasis.errors import UserError
from osasis.losses import LOSS_NAMES
from tests.tiny import write_style

HISTORY = [{name: 1.0 / (i + k + 1) for k, name in enumerate(LOSS_NAMES)} for i in range(250)]


@pytest.fixture(scope="module")
def home_object(fresh_home: Callable[[], Path]) -> Home:
    return Home(fresh_home())


@pytest.fixture(scope="module")
def registry(home_object: Home) -> Registry:
    """Two versions of `oil`, one of `ink`, and a registered model of another project."""
    registry = Registry(home_object)
    for style, seed, fingerprint in (("oil", 1, "f1"), ("oil", 2, "f2"), ("ink", 3, "f1")):
        folder = home_object.path / f"{style}-{seed}"
        write_style(folder / "style", home_object.bases / "tiny", style, seed)
        (folder / "previews").mkdir()
        (folder / "previews" / "00.png").write_bytes(b"a picture")
        registry.register(
            style,
            folder / "style",
            fingerprint=fingerprint,
            base="0123",
            params={"iterations": 250, "content_cutoff": None},
            history=HISTORY,
            metrics={"lpips": 0.25 * seed},
            tags={"base_name": "tiny", "licence": "", "tags": "x,y"},
            previews=folder / "previews",
        )
    registry.client.create_registered_model("churn", tags={"team": "sales"})
    registry.client.create_model_version("churn", source=home_object.path.as_uri())
    return registry


def refused(registry: Registry, reference: str) -> str:
    with pytest.raises(UserError) as error:
        registry.resolve(reference)
    return str(error.value)


def test_versions_are_newest_first_and_the_newest_is_champion(registry: Registry) -> None:
    assert [(v.version, v.fingerprint, v.aliases) for v in registry.versions("oil")] == [
        (2, "f2", (CHAMPION,)),
        (1, "f1", ()),
    ]


def test_references(registry: Registry) -> None:
    assert registry.resolve("oil").reference == "oil:2"
    assert registry.resolve("oil@champion").reference == "oil:2"
    assert registry.resolve("oil:1").reference == "oil:1"
    assert registry.resolve("oil:2") == registry.resolve("oil")
    assert registry.resolve("ink").reference == "ink:1"


def test_aliases_can_be_moved_and_are_followed(registry: Registry) -> None:
    registry.client.set_registered_model_alias("oil", "candidate", "1")
    try:
        assert registry.resolve("oil@candidate").version == 1
        assert registry.resolve("oil:1").aliases == ("candidate",)
    finally:
        registry.client.delete_registered_model_alias("oil", "candidate")


def test_unknown_references_list_what_exists(registry: Registry) -> None:
    assert refused(registry, "oli") == "unknown style 'oli' (nearest: oil)"
    assert refused(registry, "zzz") == "unknown style 'zzz' (registered: ink, oil)"
    there = "there are 2 (champion), 1"
    assert refused(registry, "oil:3") == f"style 'oil' has no version '3': {there}"
    assert refused(registry, "oil@best") == f"style 'oil' has no version 'best': {there}"
    assert refused(registry, "oil:") == f"style 'oil' has no version '': {there}"
    assert refused(registry, "o'il").startswith('unknown style "o\'il"')
    assert refused(registry, "").startswith("unknown style ''")


def test_a_snapshot_finds_what_mlflow_finds(registry: Registry) -> None:
    snapshot = RegistrySnapshot(registry.home)
    assert snapshot.styles() == registry.styles() == ["ink", "oil"]
    for reference in ("oil", "oil@champion", "oil:1", "ink"):
        assert snapshot.resolve(reference) == registry.resolve(reference)
    assert snapshot.find("oil", "f1") == registry.resolve("oil:1")
    assert snapshot.find("oil", "f3") is snapshot.find("oi", "f1") is None
    for reference in ("oi", "churn", "oil:77", "oil@best"):
        with pytest.raises(UserError) as error:
            snapshot.resolve(reference)
        assert str(error.value) == refused(registry, reference)


def test_find_by_style_and_fingerprint(registry: Registry) -> None:
    def number(version: StyleVersion | None) -> int | None:
        return version.version if version else None

    assert number(registry.find("oil", "f1")) == 1
    assert number(registry.find("oil", "f2")) == 2
    assert number(registry.find("ink", "f1")) == 1
    assert number(registry.find("ink", "f2")) is None
    assert number(registry.find("chalk", "f1")) is None


def test_models_of_other_projects_are_ignored(registry: Registry, home_object: Home) -> None:
    assert registry.styles() == ["ink", "oil"]
    assert refused(registry, "churn").startswith("unknown style 'churn'")
    assert registry.find("churn", "") is None
    versions = registry.client.search_model_versions("name = 'churn'")
    assert [v.version for v in versions] == [1]
    with pytest.raises(UserError, match=r"^style 'churn': a registered model of another project"):
        registry.register(
            "churn",
            home_object.path / "oil-1" / "style",
            fingerprint="f1",
            base="0123",
            params={},
            history=[],
            metrics={},
            tags={},
        )
    assert len(registry.client.search_model_versions("name = 'churn'")) == 1


def test_a_model_without_a_version_is_not_a_style(registry: Registry) -> None:
    """A run that is killed between creating a model and its first version leaves this state."""
    registry.client.create_registered_model("ghost", tags={KIND_TAG: "style"})
    assert registry.styles() == ["ink", "oil"]
    assert refused(registry, "ghost").startswith("unknown style 'ghost'")


def test_a_version_holds_the_whole_style(registry: Registry, home_object: Home) -> None:
    version = registry.resolve("oil:1")
    assert (version.base, version.tags["base_name"]) == ("0123", "tiny")
    stored = version.folder()
    assert stored.is_relative_to(home_object.artifacts)
    written = home_object.path / "oil-1" / "style"
    assert {p.name for p in stored.iterdir()} == {p.name for p in written.iterdir()}
    for path in written.iterdir():
        assert (stored / path.name).read_bytes() == path.read_bytes()
    assert load_style(stored).id == "oil"
    assert (stored.parent / "previews" / "00.png").read_bytes() == b"a picture"


def test_metrics_history_has_every_iteration(registry: Registry) -> None:
    run_id = registry.resolve("oil:2").run_id
    for name in LOSS_NAMES:
        # 250 iterations of 8 losses exceed the limit of one request.
        history = registry.client.get_metric_history(run_id, name)
        assert [(m.step, m.value) for m in history] == [
            (i, row[name]) for i, row in enumerate(HISTORY, start=1)
        ]
    run = registry.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["lpips"] == 0.5
    assert run.data.params == {"iterations": "250", "content_cutoff": "None"}


def test_a_second_registry_of_the_home_sees_the_same(registry: Registry, home_object: Home) -> None:
    again = Registry(home_object)
    assert again.experiment == registry.experiment
    assert again.resolve("oil") == registry.resolve("oil")


def test_listing_sends_two_queries_for_any_number_of_styles(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    for name in ("search_registered_models", "search_model_versions", "get_registered_model"):
        real = getattr(registry.client, name)

        def counting(*a: Any, real: Any = real, name: str = name, **k: Any) -> Any:
            asked.append(name)
            return real(*a, **k)

        monkeypatch.setattr(registry.client, name, counting)
    listed = registry.all_versions()
    assert {k: [v.version for v in vs] for k, vs in listed.items()} == {"ink": [1], "oil": [2, 1]}
    assert listed["oil"][0].aliases == (CHAMPION,)
    assert asked == ["search_registered_models", "search_model_versions"]

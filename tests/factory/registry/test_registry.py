"""The registry on a real sqlite MLflow."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factory.core.home import Home
from factory.registry import (
    CANDIDATE,
    CHAMPION,
    KIND_TAG,
    Registry,
    RegistrySnapshot,
    StyleVersion,
    bundles,
    list_versions,
)
from osasis.bundles.base import read_base_info
from osasis.bundles.style import load_style
from osasis.errors import UserError
from osasis.images.decoding import load_image, png_bytes
from osasis.losses import LOSS_NAMES
from osasis.storage import DiskFullError
from tests.factory.conftest import cli
from tests.tiny import picture, write_style

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


@pytest.fixture
def three_versions(fresh_home: Callable[[], Path]) -> Registry:
    """Three versions of `oil`, registered in order; each became champion."""
    home = Home(fresh_home())
    registry = Registry(home)
    for seed in (1, 2, 3):
        put(registry, seed)
    return registry


def put(registry: Registry, seed: int, alias: str = CHAMPION) -> StyleVersion:
    folder = registry.home.path / f"made-{seed}"
    write_style(folder, registry.home.bases / "tiny", "oil", seed)
    base = read_base_info(registry.home.bases / "tiny")["fingerprint"]
    return registry.register(
        "oil",
        folder,
        fingerprint=f"f{seed}",
        base=base,
        params={"seed": seed},
        history=[{"total": 1.0}],
        metrics={"lpips": 0.1 * seed},
        tags={"base_name": "tiny"},
        alias=alias,
    )


def champion(registry: Registry) -> int:
    return registry.resolve("oil").version


def test_promote_and_rollback(three_versions: Registry) -> None:
    assert champion(three_versions) == 3
    candidate = put(three_versions, 4, CANDIDATE)
    assert (champion(three_versions), candidate.aliases) == (3, (CANDIDATE,))
    promoted = three_versions.promote("oil")
    assert (promoted.version, promoted.aliases) == (4, (CHAMPION,))
    assert three_versions.promote("oil:1").version == champion(three_versions) == 1
    assert [three_versions.rollback("oil").version for _ in range(3)] == [4, 3, 2]
    with pytest.raises(UserError, match="has no previous champion"):
        three_versions.rollback("oil")
    with pytest.raises(UserError, match="has no version 'candidate'"):
        three_versions.promote("oil")


def test_delete_removes_files_and_protects_the_champion(three_versions: Registry) -> None:
    folder = three_versions.resolve("oil:1").folder()
    assert folder.is_dir()
    assert [v.reference for v in three_versions.delete("oil:1")] == ["oil:1"]
    assert not folder.exists()
    with pytest.raises(UserError, match="oil:3 is the champion of 'oil'; promote another"):
        three_versions.delete("oil:3")
    three_versions.promote("oil:2")
    three_versions.delete("oil:3")
    with pytest.raises(UserError, match="has no previous champion"):
        three_versions.rollback("oil")
    assert [v.version for v in three_versions.delete("oil")] == [2]
    assert three_versions.styles() == []


def test_a_fingerprint_is_registered_once(three_versions: Registry) -> None:
    assert put(three_versions, 2).version == 2
    assert len(three_versions.versions("oil")) == 3
    assert champion(three_versions) == 3


def test_weights_that_the_store_changed_are_not_registered(
    three_versions: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = three_versions.client.log_artifacts

    def breaking(run: str, folder: str, path: str) -> None:
        log(run, folder, path)
        stored = three_versions.home.artifacts / run / "artifacts" / path / "style.safetensors"
        stored.write_bytes(stored.read_bytes()[:-1] + b"\x01")

    monkeypatch.setattr(three_versions.client, "log_artifacts", breaking)
    with pytest.raises(UserError, match="weights in the registry's store differ"):
        put(three_versions, 5)
    assert [v.version for v in three_versions.versions("oil")] == [3, 2, 1]


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


def test_listing_excludes_other_models_and_deleted_versions(three_versions: Registry) -> None:
    put(three_versions, 6, CANDIDATE)
    three_versions.client.create_registered_model("not-a-style")
    three_versions.client.create_model_version("not-a-style", source="file:///nowhere")
    last = three_versions.versions("oil")[0].version
    three_versions.delete(f"oil:{last}")
    listed = list_versions(three_versions.home)
    assert listed == three_versions.all_versions()
    assert "not-a-style" not in listed
    assert last not in {v.version for v in listed["oil"]}
    assert listed["oil"][-1].tags


def test_listing_creates_no_registry(tmp_path: Path) -> None:
    ran = cli("styles", "list", "--home", tmp_path / "none")
    assert (ran.code, ran.out) == (0, "") and "no style is registered yet" in ran.err
    assert not (tmp_path / "none" / "mlflow.db").exists()


@pytest.mark.parametrize("name", ["oil.zip", "oil"])
def test_an_export_to_a_full_disk_names_it_and_leaves_nothing(
    three_versions: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(zipfile.ZipFile, "write", full)
    monkeypatch.setattr(bundles, "write_json", full)
    with pytest.raises(DiskFullError, match=f"^the disk of {tmp_path} is full"):
        bundles.export_style(three_versions.home, "oil:2", tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_export_and_import(three_versions: Registry, fresh_home: Callable[[], Path]) -> None:
    home, other = three_versions.home.path, fresh_home()
    target = home / "out" / "oil.zip"
    assert cli("styles", "export", "oil:2", target, "--home", home).code == 0
    assert "already exists" in cli("styles", "export", "oil", target, "--home", home).error
    cli("styles", "export", "oil:2", home / "folder", "--home", home)
    ran = cli("styles", "import", target, "--home", other, "--json")
    assert (ran.code, ran.document["id"], ran.document["aliases"]) == (0, "oil", ["champion"])
    made = Registry(Home(other)).resolve("oil")
    weights = [v.folder() / "style.safetensors" for v in (made, three_versions.resolve("oil:2"))]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    # The folder holds the same style, which is registered already.
    again = cli("styles", "import", home / "folder", "--home", other, "--json").document
    assert again["version"] == 1
    renamed = cli(
        "styles", "import", home / "folder", "--home", other, "--id", "b", "--candidate", "--json"
    )
    assert renamed.document["aliases"] == ["candidate"]
    (home / "no.zip").write_bytes(b"no archive")
    assert "not a style bundle" in cli("styles", "import", home / "no.zip", "--home", other).error
    with zipfile.ZipFile(home / "evil.zip", "w") as archive:
        archive.writestr("style/../../evil", "x")
    assert "no bundle.json" in cli("styles", "import", home / "evil.zip", "--home", other).error


def test_compare_command(three_versions: Registry) -> None:
    ran = cli("styles", "compare", "oil:1", "oil", "--home", three_versions.home.path, "--json")
    assert ran.document["metrics"]["lpips"] == {"oil:1": 0.1, "oil:3": pytest.approx(0.3)}
    assert ran.document["settings"] == {"seed": {"oil:1": "1", "oil:3": "3"}}


def test_a_style_is_an_mlflow_model_without_a_pickle(
    three_versions: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    import pandas as pd

    home = three_versions.home
    # MLflow's own default is a database in the working folder.
    monkeypatch.chdir(home.path)
    stored = three_versions.resolve("oil").folder()
    assert not list(stored.rglob("*.pkl"))
    # mlflow.set_tracking_uri would set the variable for later tests too.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", home.tracking_uri)
    model = mlflow.pyfunc.load_model("models:/oil@champion")
    photo = picture(5, (40, 48))
    data = png_bytes(photo)
    (image,) = model.predict([photo])
    assert image.size == (32, 32)
    (png,) = model.predict([data])
    assert load_image(png).tobytes() == image.tobytes()
    frame = model.predict(pd.DataFrame({"image": [data, data]}, index=[3, 4]))
    assert list(frame.index) == [3, 4] and frame["image"][4] == png
    stack = model.predict(np.stack([np.asarray(photo)] * 2))
    assert stack.shape == (2, 32, 32, 3) and stack.dtype == np.uint8
    with pytest.raises(UserError, match="image 1: not an image"):
        model.predict([data, b"no picture at all"])
    # Fields of the mix are params.
    (photo_again,) = model.predict([png], params={"strength": 0.0, "palette": 0.0})
    (stylized,) = model.predict([png])
    before = np.asarray(load_image(png), int)
    changes = [np.abs(np.asarray(load_image(p), int) - before).mean() for p in
               (photo_again, stylized)]  # fmt: skip
    assert changes[0] < changes[1]
    assert model.predict([png], params={"level_weights": [0.0, 0.0, 0.0]}) != [stylized]
    for wrong, said in (
        (None, "the input is NoneType; give a list of PIL images"),
        ([], "the input is empty; give a list of PIL images"),
        ({}, "the input is empty; give a list"),
        (np.asarray(photo), "the input is one array (48, 40, 3); put it into a list"),
        (7, "the input is int; give a list"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            model.predict(wrong)
    with pytest.raises(UserError, match="strength is 9"):
        model.predict([png], params={"strength": 9.0})
    example = model.input_example
    assert model.predict(example)["image"][0].startswith(b"\x89PNG")


REGISTERING = """
import sys
from pathlib import Path
from factory.core.home import Home
from factory.registry import Registry
home = Home(Path(sys.argv[1]))
registry = Registry(home)
version = registry.register("oil", Path(sys.argv[2]), fingerprint="same", base="b", params={},
    history=[], metrics={}, tags={})
print(version.version)
"""


def test_concurrent_registrations_of_a_fingerprint_make_one_version(
    fresh_home: Callable[[], Path],
) -> None:
    """The home has no database, so its creation is concurrent too."""
    home = fresh_home()
    running = []
    for i in range(2):
        write_style(home / f"made-{i}", home / "bases" / "tiny", "oil")
        command = [sys.executable, "-c", REGISTERING, str(home), str(home / f"made-{i}")]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    assert [p.communicate(timeout=300)[0].strip() for p in running] == ["1", "1"]
    assert len(Registry(Home(home)).versions("oil")) == 1

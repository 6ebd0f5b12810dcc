"""Versions of a style on a real sqlite MLflow: promoting, deleting, listing, exporting."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from factory.core.home import Home
from factory.registry import (
    CANDIDATE,
    CHAMPION,
    Registry,
    StyleVersion,
    bundles,
    list_versions,
)
from osasis.bundles.base import read_base_info
from osasis.errors import UserError
from osasis.images.decoding import load_image, png_bytes
from osasis.storage import DiskFullError
from tests.factory.conftest import cli
from tests.tiny import picture, write_style


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

"""A home in an object store: where its parts are, its bases, and copies on this machine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from factory.core.home import Home, local_base
from factory.core.local_cache import CACHE_VARIABLE, cache_folder
from factory.core.local_copy import local_copy, upload
from factory.core.stores import open_store
from factory.core.work_folder import WorkFolder
from osasis.bundles.files import BASE_JSON, shipped_bases
from osasis.errors import UserError
from tests.factory.conftest import cli, import_tiny
from tests.s3_server import BUCKET, SECRET, S3Server, s3_server

MADE: dict[str, bytes] = {"a.bin": b"a" * 10, "deep/b.bin": b"b" * 10, "done.json": b"{}"}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as server:
        yield server


@pytest.fixture
def place(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh prefix; this machine's copies are in a folder of the test."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    s3.requests.clear()
    return f"s3://{BUCKET}/{tmp_path.name}"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    for name, data in MADE.items():
        path = tmp_path / "made" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "made"


def files(folder: Path) -> dict[str, bytes]:
    found = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def test_shared_parts_are_in_the_store_and_others_on_this_machine(
    place: str, tmp_path: Path
) -> None:
    home = Home.find(f"{place}/home/")
    assert home.uri == home.location == f"{place}/home"
    assert home.shared(home.claims) == f"{place}/home/claims"
    assert home.path.parent == cache_folder() / "homes"
    assert cache_folder().parent == tmp_path / "cache"
    local = Home.find(str(tmp_path))
    assert local.uri is None and local.shared(local.claims) == str(tmp_path / "claims")


def test_a_registry_needs_a_server(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI to an MLflow server"):
        Home.find(f"{place}/home")


@pytest.mark.parametrize(
    ("home", "says"),
    [
        ("ftp://host/home", "ftp:// cannot be written to; give a folder, or a URI that starts"),
        (f"s3://key:{SECRET}@bucket/home", "takes no user, password or options"),
        ("s3://", "names no bucket"),
    ],
)
def test_a_wrong_uri_is_refused(place: str, home: str, says: str) -> None:
    ran = cli("styles", "list", "--home", home)
    assert ran.code == 2 and says in ran.error and SECRET not in ran.err


@pytest.mark.parametrize(
    "command",
    [
        ("base", "train", "mine", "--images", "photos", "--config", "portraits64"),
        ("base", "train-predictor", "mine", "--images", "photos", "--steps", "9"),
    ],
)
def test_commands_that_need_a_folder_say_so(place: str, command: tuple[str, ...]) -> None:
    ran = cli(*command, "--home", f"{place}/home")
    assert ran.code == 2, ran.err
    assert f"{place}/home is in an object store; give a folder with --home" in ran.error


def test_a_folder_is_copied_once_and_again_when_it_is_another(
    s3: S3Server, place: str, made: Path
) -> None:
    store = open_store(f"{place}/bank")
    upload(made, store, "done.json")
    assert s3.requests[-1] == ("PUT", f"/{BUCKET}/{place.rpartition('/')[2]}/bank/done.json")
    with ThreadPoolExecutor(4) as pool:
        copies = set(pool.map(lambda _: local_copy(f"{place}/bank", "done.json"), range(4)))
    (copy,) = copies
    assert copy.name == "bank" and files(copy) == MADE
    s3.requests.clear()
    assert local_copy(f"{place}/bank", "done.json") == copy
    assert len(s3.requests) == 1
    store.write("a.bin", b"new")
    store.write("done.json", b'{"new": 1}')
    other = local_copy(f"{place}/bank", "done.json")
    assert other != copy and (other / "a.bin").read_bytes() == b"new"
    assert files(copy) == MADE
    with pytest.raises(FileNotFoundError):
        local_copy(f"{place}/nothing", "done.json")


def test_a_copy_whose_files_were_deleted_is_made_again(place: str, made: Path) -> None:
    upload(made, open_store(f"{place}/bank"), "done.json")
    copy = local_copy(f"{place}/bank", "done.json")
    (copy / "deep" / "b.bin").unlink()
    assert local_copy(f"{place}/bank", "done.json") == copy and files(copy) == MADE


def test_work_of_killed_processes_is_deleted_after_a_day(place: str) -> None:
    first = WorkFolder.at(f"{place}/work")
    (first.path / "deep").mkdir(parents=True)
    (first.path / "deep" / "a").write_bytes(b"")
    second = WorkFolder.at(f"{place}/work")
    assert first.path.is_dir()
    for path in (first.path / "deep" / "a", first.path / "deep", first.path):
        os.utime(path, (time.time() - 90_000,) * 2)
    WorkFolder.at(f"{place}/work")
    assert not first.path.exists() and first.path != second.path


def test_a_local_folder_is_its_own_copy(made: Path) -> None:
    assert local_copy(made, "done.json") == made
    work = WorkFolder.at(made)
    work.fetch()
    work.publish("a.bin")
    work.drop_local()
    assert work.path == made and files(made) == MADE


def test_old_copies_make_room(
    place: str, made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("factory.core.local_copy.MAX_BYTES", 30)
    monkeypatch.setattr("factory.core.local_copy.KEPT_SECONDS", 0.0)
    for name in ("one", "two"):
        upload(made, open_store(f"{place}/{name}"), "done.json")
    first, second = (local_copy(f"{place}/{name}", "done.json") for name in ("one", "two"))
    assert not first.exists() and files(second) == MADE
    assert len(list((cache_folder() / "copies").iterdir())) == 1


def test_another_machine_continues_in_a_work_folder(
    place: str, made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = WorkFolder.at(f"{place}/work")
    first.fetch()
    assert first.path.is_dir() and files(first.path) == {}
    for name, data in MADE.items():
        (first.path / name).parent.mkdir(exist_ok=True)
        (first.path / name).write_bytes(data)
    first.publish("a.bin")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "other machine"))
    second = WorkFolder.at(f"{place}/work")
    assert second.path != first.path
    second.fetch()
    assert files(second.path) == {"a.bin": MADE["a.bin"]}
    first.publish_all("done.json", skip=["deep"])
    second.fetch()
    assert set(files(second.path)) == {"a.bin", "done.json"}
    first.publish_all("done.json")
    second.fetch(skip=["a.bin"])
    assert set(files(second.path)) == {"deep/b.bin", "done.json"}
    second.fetch()
    assert files(second.path) == MADE
    assert WorkFolder.at(f"{place}/work").path != second.path  # another job on this machine
    second.delete()
    assert open_store(f"{place}/work").list() == [] and not second.path.exists()
    assert files(first.path) == MADE
    first.fetch()  # nothing of an earlier attempt is left
    assert files(first.path) == {}


def test_bases_are_in_the_store(
    place: str, sources: Path, fresh_home: Callable[[], Path], tmp_path: Path
) -> None:
    home = Home.find(f"{place}/home")
    shipped = set(shipped_bases())
    assert shipped <= set(home.base_names())
    ran = import_tiny(home.location, sources)  # type: ignore[arg-type]
    assert ran.code == 0, ran.err
    folder = home.base_folder(None)
    own = fresh_home() / "bases" / "tiny"
    there, here = (json.loads((f / BASE_JSON).read_text()) for f in (folder, own))
    assert folder.name == "tiny" and there["fingerprint"] == here["fingerprint"]
    assert home.base_with(here["fingerprint"]) == folder
    location = home.base_location(folder)
    assert location == f"{place}/home/bases/tiny" and local_base(location) == folder
    other = home.base_folder(next(iter(shipped)))
    assert home.base_location(other) == str(other) == str(local_base(str(other)))
    info = cli("base", "info", "tiny", "--home", home.location, "--json").document
    assert info["folder"] == location
    with pytest.raises(UserError, match=r"unknown base 'tinny': .*tiny"):
        home.base_folder("tinny")

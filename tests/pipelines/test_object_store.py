"""Jobs whose outputs and state are in an object store: the same as on a folder."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.core.home import Home
from factory.core.object_store import StoreError
from factory.core.stores import open_store
from osasis.errors import ImageError, UserError
from pipelines.job_folder import DONE, FAILED, MISSING, JobFolder
from pipelines.job_revision import InputChanges
from pipelines.manifest import build_manifest
from pipelines.photo_bytes import read_photo
from pipelines.source import open_source
from tests.azure_server import KEY as AZURE_KEY
from tests.conftest import ROOT
from tests.pipelines.conftest import images, written
from tests.pipelines.test_job_revision import Job
from tests.pipelines.test_operators import Run, run
from tests.s3_server import BUCKET, KEY, SECRET, S3Server, s3_server
from tests.store_servers import SERVERS, store_server
from tests.tiny import picture

__all__ = ["run"]

Ran = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as server:
        yield server


@pytest.fixture
def place(s3: S3Server, tmp_path: Path) -> str:
    """A fresh prefix."""
    s3.requests.clear()
    return f"s3://{BUCKET}/{tmp_path.name}"


@pytest.fixture(scope="module", params=SERVERS)
def bucket(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URI of a bucket in each kind of store."""
    with store_server(request.param) as uri:
        yield uri


@pytest.fixture
def any_place(bucket: str, tmp_path: Path) -> str:
    return f"{bucket}/{tmp_path.name}"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        picture(i).save(folder / f"{i}.png")
    return folder


def test_outputs_and_records_equal_those_of_a_folder(
    run: Run, photos: Path, any_place: str
) -> None:
    folder, output = run(photos)
    stored, _ = run(photos, store=any_place)
    assert written(any_place) == written(output)
    assert [stored.count(s) for s in (DONE, FAILED, MISSING)] == [3, 3, 0]
    assert {f.to_dict()["reason"] for f in stored.failures.values()} == {
        f.to_dict()["reason"] for f in folder.failures.values()
    }
    # A resumed job reads its state.
    again = JobFolder(any_place)
    manifest = build_manifest(open_source(photos), [[0, 1]] * 3, {})
    assert again.open({"input": ""}, manifest)
    assert [again.count(s) for s in (DONE, FAILED, MISSING)] == [3, 3, 0]
    again.write_errors([{"id": "x", "path": "0.png", "style": "bad", "stage": "a", "reason": "b"}])
    errors = pq.read_table(io.BytesIO(again.output.read("errors.parquet")))
    assert errors["path"].to_pylist() == ["0.png"]
    # No credential stands anywhere.
    for name in again.output.list():
        data = again.output.read(name)
        for canary in (KEY, SECRET, AZURE_KEY):
            assert canary.encode() not in data, name


def test_outputs_that_a_store_refuses_are_missing_and_not_failed(
    run: Run, photos: Path, place: str, s3: S3Server
) -> None:
    prefix = place.partition("//")[2]

    def refuse(method: str, path: str) -> str | None:
        full = method == "PUT" and path == f"/{prefix}/good/2.png"
        return "507 QuotaExceeded" if full else None

    s3.refuse = refuse
    try:
        with pytest.raises(StoreError) as refused:
            run(photos, store=place)
    finally:
        s3.refuse = lambda method, path: None
    assert str(refused.value).startswith(f"{place}/good/2.png: cannot write (An error")
    assert "QuotaExceeded" in str(refused.value)
    again = JobFolder(place)
    assert again.open({"input": ""}, build_manifest(open_source(photos), [[0, 1]] * 3, {}))
    assert [again.count(s) for s in (DONE, FAILED, MISSING)] == [2, 2, 2]
    assert set(images(place)) == {"good/0.png", "good/1.png"}


def test_a_job_in_a_store_grows_as_one_on_a_folder(photos: Path, any_place: str) -> None:
    job = Job(photos, any_place)
    assert len(job.run()[1]) == 6
    picture(9, (20, 20)).save(photos / "new.png")
    picture(7, (20, 20)).save(photos / "1.png")
    (photos / "2.png").unlink()
    with pytest.raises(UserError, match="leave --frozen out"):
        job.run(frozen=True)
    changes, made, folder = job.run()
    assert changes == InputChanges(new=1, changed=("1.png",), vanished=("2.png",))
    assert made == [("1.png", 0), ("1.png", 1), ("new.png", 0), ("new.png", 1)]
    assert folder.count(DONE) == 6
    assert job.run()[:2] == (None, [])
    states = {n.partition("/")[0] for n in folder.folder.list() if n.startswith("state-")}
    assert len(states) == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, "credentials"),
        ("AccountKey=a2V5;", "(AuthenticationFailed|authenticate|authorized|signature)"),
    ],
)
def test_an_account_that_is_missing_or_wrong_is_one_line(
    given: str | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store_server("abfs") as bucket:
        right = os.environ["AZURE_STORAGE_CONNECTION_STRING"]
        if given is None:
            monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
        else:
            wrong = right.replace(f"AccountKey={AZURE_KEY};", given)
            monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", wrong)
        system = fsspec.get_filesystem_class("abfs")
        system.clear_instance_cache()
        try:
            with pytest.raises(UserError, match=f"^{bucket}/in: .*{says}") as refused:
                open_source(f"{bucket}/in")
            assert "\n" not in str(refused.value)
        finally:
            system.clear_instance_cache()


def test_two_drivers_of_one_output_exclude_each_other(place: str) -> None:
    with (
        JobFolder(place).locked(),
        pytest.raises(UserError, match=f"{place}: another `stylize`"),
        JobFolder(place).locked(),
    ):
        pass
    assert open_store(place).list() == []


NAMES = ["[1]*.png", "a b.png", "deep/er.png", "empty//part.png", "q?.png", "ü%20.png"]


def test_photos_in_a_store_are_listed_with_their_change_and_read(
    any_place: str, photos: Path
) -> None:
    data = {name: (photos / f"{i % 3}.png").read_bytes() for i, name in enumerate(NAMES)}
    store, before = open_store(f"{any_place}/in [1]"), time.time()
    for name in [*NAMES, ".hidden.png", "notes.txt"]:
        store.write(name, data.get(name, b"?"))
    source = open_source(f"{any_place}/in%20[1]")
    assert source.left_out == {"hidden": 1, "TXT": 1}
    listing = source.listing.to_pylist()
    assert [row["key"].decode() for row in listing] == NAMES
    for row in listing:
        assert read_photo(row["path"].decode()) == data[row["key"].decode()]
        assert row["size"] == len(data[row["key"].decode()])
        assert before - 2 <= row["mtime"] / 1e9 <= time.time() + 2
    (photo,) = open_source(f"{any_place}/in%20[1]/deep/er.png").listing.to_pylist()
    assert read_photo(photo["path"].decode()) == data["deep/er.png"]
    with pytest.raises(ImageError, match="no such file"):
        read_photo(f"{any_place}/in/missing.png")
    with pytest.raises(UserError, match="no such file or folder"):
        open_source(f"{any_place}/nowhere")


@pytest.mark.parametrize("name", NAMES)
def test_a_photo_is_read_by_one_request(name: str, s3: S3Server, place: str, photos: Path) -> None:
    data = (photos / "0.png").read_bytes()
    open_store(place).write(f"in/{name}", data)
    source = open_source(f"{place}/in")
    (location,) = source.listing["path"].to_pylist()
    s3.requests.clear()
    assert read_photo(location.decode()) == data
    assert s3.count() == {"GET": 1}


def test_names_that_are_not_utf_8_are_escaped(place: str, tmp_path: Path) -> None:
    assert open_store(place).name_of(b"a\xff") == "a\\xff"
    assert open_store(tmp_path).name_of(b"a\xff") == "a\udcff"


def stylize(home: Home, source: Path | str, output: Path | str, *options: str) -> Ran:
    """`style-factory stylize` of two styles."""
    where = ("--input", str(source), "--output", str(output), "--size", "base")
    return command("stylize", home, *where, *options)


def command(name: str, home: Home, *options: str) -> Ran:
    """A command on two styles in a process of its own, with its own Ray."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "factory.cli", name, "--home", str(home.path)),
            *("--styles", "oil,ink", "--workers", "1", "--json", *options),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_a_refusal_stops_the_command_and_the_same_one_finishes_the_job(
    gallery: Home, place: str, photos: Path, s3: S3Server
) -> None:
    for photo in photos.iterdir():
        open_store(f"{place}/in").write(photo.name, photo.read_bytes())
    prefix = f"/{BUCKET}/{place.rpartition('/')[2]}/out"
    refused = f"{prefix}/ink/1.png"
    s3.refuse = lambda method, path: (
        "403 AccessDenied" if (method, path) == ("PUT", refused) else None
    )
    try:
        first = stylize(gallery, f"{place}/in", f"{place}/out")
    finally:
        s3.refuse = lambda method, path: None
    assert first.returncode == 1
    document = json.loads(first.stdout)
    assert document.get("output") == f"{place}/out", document
    assert document["failed"] == 0 and document["images"] < 6
    assert document["stopped"] == (
        f"stopped: {place}/out/ink/1.png: cannot write (AccessDenied); check the credentials in "
        f"the environment, and what they permit; {document['images']} of 6 are there; run the same "
        "command again to continue"
    )
    second = stylize(gallery, f"{place}/in", f"{place}/out")
    assert second.returncode == 0, second.stderr
    assert len(images(f"{place}/out")) == 6
    assert s3.count(f"{prefix.removeprefix(f'/{BUCKET}/')}/oil/")["PUT"] <= 4
    store = open_store(f"{place}/out")
    assert {"summary.json", "contact.html"} <= set(store.list())
    texts = [first.stdout, first.stderr, second.stdout, second.stderr]
    for text in [*(t.encode() for t in texts), *map(store.read, store.list())]:
        assert KEY.encode() not in text and SECRET.encode() not in text
    assert "Traceback" not in first.stderr


@pytest.mark.slow
def test_parquet_outputs_in_a_store_equal_those_on_a_folder(
    gallery: Home, place: str, photos: Path, tmp_path: Path
) -> None:
    rows = {"name": [f"n{i}" for i in range(3)],
            "image": [(photos / f"{i}.png").read_bytes() for i in range(3)]}  # fmt: skip
    pq.write_table(pa.table(rows), tmp_path / "in.parquet")
    for output in (tmp_path / "out", f"{place}/out"):
        ran = stylize(gallery, tmp_path / "in.parquet", output, "--format", "parquet")
        assert ran.returncode == 0, ran.stderr
    local, stored = open_store(tmp_path / "out"), open_store(f"{place}/out")
    assert stored.read("part-00000.parquet") == local.read("part-00000.parquet")
    assert not [name for name in stored.list() if "/parts/" in name]
    assert pq.read_table(tmp_path / "out" / "part-00000.parquet").num_rows == 6


@pytest.mark.slow
def test_an_evaluation_in_a_store_equals_one_on_a_folder(
    gallery: Home, any_place: str, photos: Path, tmp_path: Path
) -> None:
    metrics = ("--metrics", "lpips,style", "--baselines", "reinhard", "--photos", str(photos))
    documents = []
    for output in (str(tmp_path / "out"), f"{any_place}/out", f"{any_place}/out"):
        ran = command("evaluate", gallery, *metrics, "--output", output)
        assert ran.returncode == 0, ran.stderr
        documents.append(json.loads(ran.stdout))
        assert documents[-1].pop("output") == output
    assert documents[0] == documents[1] == documents[2]
    assert "12 of 12 picture(s) are measured" in ran.stderr
    local, stored = open_store(tmp_path / "out"), open_store(f"{any_place}/out")
    names = [
        "evaluation.json",
        "evaluation.png",
        "images/ink/reinhard/1.png",
        "measurements.parquet",
    ]
    assert set(names) <= set(stored.list()) and stored.list("rows") == []
    for name in names[1:]:
        assert stored.read(name) == local.read(name), name

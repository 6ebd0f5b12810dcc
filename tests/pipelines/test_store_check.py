"""A photo that a store refuses fails alone; a store that refuses every photo stops the job."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.core.object_store import StoreError
from factory.core.stores import open_store
from osasis.errors import UserError
from pipelines.job_folder import DONE, FAILED, MISSING, JobFolder
from pipelines.manifest import build_manifest
from pipelines.measure_pictures import MeasurePictures, MeasureSpec, batches
from pipelines.measurements import Picture, read_rows
from pipelines.read_squares import fetchers
from pipelines.source import open_source
from pipelines.store_check import StoreCheck, first_readable, spread
from pipelines.stream import connect, from_tasks, tables_of
from tests.pipelines.test_operators import Run, run
from tests.s3_server import BUCKET, S3Server, s3_server
from tests.tiny import SIZE, picture

__all__ = ["run"]

Refuse = Callable[[Callable[[str], bool]], None]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as server:
        # A process that reads photos knows the environment of its start.
        patch.setattr("pipelines.subprocess_timeout._worker", None)
        yield server


@pytest.fixture
def place(s3: S3Server, tmp_path: Path) -> str:
    """Four photos below a fresh prefix."""
    store = open_store(f"s3://{BUCKET}/{tmp_path.name}")
    for i in range(4):
        picture(i).save(tmp_path / "photo.png")
        store.write(f"{i}.png", (tmp_path / "photo.png").read_bytes())
    return store.location


@pytest.fixture
def forbid(s3: S3Server) -> Iterator[Refuse]:
    """Makes the server refuse to read objects whose path satisfies a condition."""

    def set_condition(condition: Callable[[str], bool]) -> None:
        s3.refuse = lambda method, path: (
            "403 AccessDenied" if method == "GET" and condition(path) else None
        )

    yield set_condition
    s3.refuse = lambda method, path: None


def test_a_forbidden_photo_fails_alone(
    run: Run, place: str, forbid: Refuse, tmp_path: Path
) -> None:
    forbid(lambda path: path.endswith("/2.png"))
    folder, _ = run(place)
    failed = {photo: f.reason for (photo, _), f in folder.failures.items()}
    assert [folder.count(s) for s in (DONE, FAILED, MISSING)] == [3, 5, 0]
    assert failed[2].startswith("cannot read (AccessDenied)")
    assert "check the credentials" in failed[2]


@pytest.mark.parametrize("timeout", [None, 20.0])
def test_credentials_that_expire_leave_the_photos_missing(
    run: Run, place: str, forbid: Refuse, tmp_path: Path, timeout: float | None
) -> None:
    corpus = open_source(place)
    manifest = build_manifest(corpus, [[0, 1]] * corpus.count, {})
    forbid(lambda path: path.endswith(".png"))
    with pytest.raises(StoreError, match="of 4 photos that were tried none can be read") as refused:
        run(place, timeout=timeout)
    assert str(refused.value).startswith(f"{place}/0.png: cannot read (")
    folder = JobFolder(tmp_path / "out")
    assert folder.open({"input": ""}, manifest)
    assert [folder.count(s) for s in (DONE, FAILED, MISSING)] == [0, 0, 8]


def test_an_evaluation_stops_where_no_photo_can_be_read(
    run: Run, home: Path, place: str, forbid: Refuse, tmp_path: Path
) -> None:
    folder, _ = run(place)
    spec = MeasureSpec(
        folder=folder.output.location, job=folder.place.location, base=str(home / "bases" / "tiny"),
        styles={"good": str(tmp_path / "good")}, metrics=("tone_slope",), baselines=(), weights="",
        measured_by={"tone_slope": ""}, made_by={}, fit="crop", square=SIZE, seed=0,
    )  # fmt: skip
    pictures = [(Picture(i, "good", "ours", f"good/{i}.png"), ["tone_slope"]) for i in range(4)]
    (batch,) = batches(pictures)
    forbid(lambda path: path.endswith("/2.png"))
    MeasurePictures(spec, "cpu")(batch)
    reasons = {row["photo"]: row["reason"] for row in read_rows(folder.output)}
    assert "2.png: cannot read (AccessDenied)" in reasons.pop(2)
    assert set(reasons.values()) == {""}
    forbid(lambda path: path.endswith(".png"))
    with pytest.raises(StoreError, match="of 4 photos that were tried none can be read"):
        MeasurePictures(spec, "cpu")(batch)


def test_rows_of_a_table_that_a_store_refuses_stay_missing(
    run: Run, place: str, forbid: Refuse, tmp_path: Path
) -> None:
    store, table = open_store(place), tmp_path / "photos.parquet"
    pq.write_table(pa.table({"image": [store.read(f"{i}.png") for i in range(4)]}), table)
    store.write("t/photos.parquet", table.read_bytes())
    listed = open_source(f"{place}/t/photos.parquet")
    forbid(lambda path: path.endswith(".parquet"))
    job: Any = type("Job", (), {"photo_masks": None, "image_column": "image"})
    rows = [{**row, "index": i} for i, row in enumerate(listed.listing.to_pylist())]
    for _, fetch, _ in fetchers(rows, job):
        with pytest.raises(StoreError):
            fetch()


def test_a_store_that_answers_is_asked_for_one_known_photo(
    place: str, s3: S3Server, forbid: Refuse
) -> None:
    asked = []

    def sample() -> list[str]:
        asked.append(1)
        return [f"{place}/{i}.png" for i in range(4)]

    forbid(lambda path: not path.endswith("/3.png"))
    check, refusal = StoreCheck(sample, None), StoreError("x")
    check.check(refusal)
    seen = 0
    while len(s3.requests) > seen:  # the requests of the other photos end
        seen = len(s3.requests)
        time.sleep(0.5)
    s3.requests.clear()
    check.check(refusal)
    assert [path.rpartition("/")[2] for _, path in s3.requests] == ["3.png"]
    forbid(lambda path: True)
    with pytest.raises(StoreError, match=r"^x; of 4 photos that were tried none can be read$"):
        check.check(refusal)
    assert len(asked) == 2


def test_a_missing_photo_is_an_answer(place: str) -> None:
    assert first_readable([f"{place}/none.png"]) == f"{place}/none.png"


def test_a_store_that_does_not_answer_is_waited_for_once(
    place: str, s3: S3Server, forbid: Refuse
) -> None:
    def hang(path: str) -> bool:
        time.sleep(4)
        return True

    forbid(hang)
    check = StoreCheck(functools.partial(list, [f"{place}/0.png", f"{place}/1.png"]), 1.0)
    before = time.monotonic()
    with pytest.raises(StoreError):
        check.check(StoreError("x"))
    assert time.monotonic() - before < 20


def test_a_sample_is_spread_over_the_input() -> None:
    assert spread(3) == [0, 1, 2]
    assert spread(0) == []
    assert spread(1000, 4) == [0, 250, 500, 750]


class Broken:
    def __init__(self) -> None:
        raise UserError("weights on node-7 are others")

    def __call__(self, batch: pa.Table) -> pa.Table:
        return batch


def test_a_users_error_in_an_actor_is_one_line() -> None:
    connect()
    import ray.data

    tasks = from_tasks([pa.table({"a": [1]})]).map_batches(
        Broken, compute=ray.data.ActorPoolStrategy(size=1), batch_format="pyarrow"
    )
    with pytest.raises(UserError, match=r"^weights on node-7 are others$"):
        list(tables_of(tasks))

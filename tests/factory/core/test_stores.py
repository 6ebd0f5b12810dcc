"""Folders and object stores behave alike; what object stores refuse is said in one line."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from factory.core import local_cache
from factory.core.claims import Claims
from factory.core.object_store import ATTEMPTS, StoreError
from factory.core.stores import Store, open_store
from osasis.errors import UserError
from tests.s3_server import BUCKET, KEY, SECRET, S3Server, s3_server
from tests.store_servers import SERVERS, store_server


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as server:
        yield server


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_cache, "cache_folder", lambda: tmp_path)


@pytest.fixture(scope="module", params=["folder", *SERVERS])
def bucket(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URI of a bucket; "" for a folder."""
    if request.param == "folder":
        yield ""
    else:
        with store_server(request.param) as uri:
            yield uri


@pytest.fixture
def store(bucket: str, tmp_path: Path) -> Store:
    folder = f"{bucket}/{tmp_path.name}" if bucket else (tmp_path / "store").as_uri()
    return open_store(f"{folder}/a [1]*" if bucket else folder)


def test_files_are_written_listed_and_deleted(store: Store) -> None:
    assert (store.list(), store.changed("a")) == ([], None)
    store.write("a", b"1")
    store.write("deep/er/b ü%20?.txt", b"2" * 1000)
    store.write("a", b"3")
    assert store.list() == ["a", "deep/er/b ü%20?.txt"]
    store.within("deeper").write("c", b"")
    assert store.list("deep") == ["deep/er/b ü%20?.txt"]
    store.delete_folder("deeper")
    assert [store.read(n) for n in store.list()] == [b"3", b"2" * 1000]
    assert store.within("deep").read("er/b ü%20?.txt") == b"2" * 1000
    with store.open("a") as file:
        assert file.read() == b"3"
    store.delete([*store.list(), "missing"])
    assert store.list() == []
    with pytest.raises(FileNotFoundError):
        store.read("a")
    with pytest.raises(FileNotFoundError):
        store.open("b")


def test_a_part_of_a_file_is_read(store: Store) -> None:
    store.write("long", b"0123456789")
    store.write("empty", b"")
    assert [store.read("long", n) for n in (4, 10, 11)] == [b"0123", b"0123456789", b"0123456789"]
    assert (store.read("empty"), store.read("empty", 5)) == (b"", b"")
    with pytest.raises(FileNotFoundError):
        store.read("missing", 5)


def test_one_of_several_callers_creates_a_file(store: Store) -> None:
    start, made = threading.Barrier(8), []

    def create(number: int) -> None:
        start.wait(30)
        if store.create("lock", str(number).encode()):
            made.append(number)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    assert len(made) == 1
    assert store.read("lock") == str(made[0]).encode()


def test_a_conflict_of_two_creations_is_sent_again(s3: S3Server) -> None:
    store, answers = open_store(f"s3://{BUCKET}/conflict"), ["409 ConditionalRequestConflict"] * 2
    s3.refuse = lambda method, path: (
        answers.pop() if method == "PUT" and path.endswith("/lock") and answers else None
    )
    try:
        assert store.create("lock", b"1")
        assert not store.create("lock", b"2")
        answers += ["409 ConditionalRequestConflict"] * ATTEMPTS
        with pytest.raises(StoreError, match=r"lock: cannot create .*ConditionalRequestConflict"):
            store.create("lock", b"3")
    finally:
        s3.refuse = lambda method, path: None
    assert store.read("lock") == b"1"


def test_the_stores_clock_dates_changes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create("beat", b"")
    first = store.changed("beat")
    right = time.time
    assert first is not None and abs(first - right()) < 5
    time.sleep(1.1)
    monkeypatch.setattr(time, "time", lambda: right() + 3600)
    store.touch("beat")
    assert first + 0.5 < (store.changed("beat") or 0.0) < right() + 5


def test_a_read_and_a_write_of_an_object_are_one_request_each(s3: S3Server) -> None:
    store = open_store(f"s3://{BUCKET}/counted")
    store.write("warm", b"")
    s3.requests.clear()
    store.write("a", b"x" * 10_000_000)
    store.read("a")
    store.create("b", b"")
    store.list()
    store.delete(["a", "b"])
    assert s3.count("counted") == {"PUT": 2, "GET": 1, "DELETE": 2}
    assert len(s3.requests) == 6  # and the listing, of the bucket


def test_a_cached_object_is_fetched_once_and_readable_when_its_copy_is_deleted(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_cache, "MAX_BYTES", 250)
    store = open_store(f"s3://{BUCKET}/cached")
    for name in "abc":
        store.write(name, name.encode() * 100)
    s3.requests.clear()
    first = store.open("a")
    for name in ("a", "b", "b", "c"):
        store.open(name).close()
    assert s3.count("cached") == {"GET": 3}
    assert first.read() == b"a" * 100
    first.close()
    assert len(list((tmp_path / "objects").iterdir())) == 2
    store.open("a").close()  # was deleted to make room
    assert s3.count("cached") == {"GET": 4}


@pytest.mark.parametrize(
    ("location", "message"),
    [
        (f"s3://{KEY}:{SECRET}@bucket/out", "s3://bucket/out: a location that is written to takes"),
        (f"s3://bucket/out?secret_key={SECRET}", "s3://bucket/out: a location that is written to"),
        (f"abfs://{KEY}:{SECRET}@bucket/out", "abfs://bucket/out: a location that is written to"),
        ("s3://", "s3://: names no bucket; write s3://BUCKET/PREFIX"),
        ("ftp://host/out", "ftp://host/out: ftp:// cannot be written to; give a folder, or a URI "
                           "that starts with s3:// or gs:// or abfs://"),
    ],
)  # fmt: skip
def test_locations_that_cannot_be_written_to_are_refused(location: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        open_store(location)
    assert str(refused.value).startswith(message)
    assert KEY not in str(refused.value) and SECRET not in str(refused.value)


def test_a_store_that_refuses_is_named_with_its_reason(s3: S3Server) -> None:
    store = open_store(f"s3://{BUCKET}/refused")
    s3.refuse = lambda method, path: "403 AccessDenied" if "refused" in path else None
    try:
        with pytest.raises(StoreError) as refused:
            store.write("a", b"")
    finally:
        s3.refuse = lambda method, path: None
    assert str(refused.value) == (
        f"s3://{BUCKET}/refused/a: cannot write (AccessDenied); check the credentials in the "
        "environment, and what they permit"
    )
    with pytest.raises(StoreError, match="no bucket 'nowhere' there; create it or correct it"):
        open_store("s3://nowhere/out").write("a", b"")


def test_a_name_that_is_too_long_is_the_files_own_failure(s3: S3Server) -> None:
    with pytest.raises(OSError, match="name has 1034 bytes; a store allows 1024") as failed:
        open_store(f"s3://{BUCKET}/long").write("x" * 1029, b"")
    assert not isinstance(failed.value, StoreError)


# --- Claims in an object store --------------------------------------------------------------


def test_one_of_two_jobs_holds_a_claim_in_a_store(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"s3://{BUCKET}/{tmp_path.name}"
    monkeypatch.setattr("factory.core.claims.HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr("factory.core.claims.LEASE_SECONDS", 3.0)
    mine, other, told = Claims(place, "mine"), Claims(place, "other"), []
    assert other.acquire("driver") is None
    assert mine.acquire("driver") == other.holder
    # The heartbeat shows that the holder lives: its clock has whole seconds.
    assert mine.acquire_from_dead("driver", told.append) == other.holder
    assert told == [other.holder]
    other._closed.set()  # as if it were killed
    assert mine.acquire_from_dead("driver", told.append) is None
    assert (mine.held("driver"), other.held("driver")) == (True, False)
    other.close()
    assert mine.held("driver")
    mine.close()
    assert mine.store.list() == []


def test_a_store_that_ignores_conditions_is_refused(s3: S3Server, tmp_path: Path) -> None:
    s3.knows_conditions = False
    try:
        with pytest.raises(UserError, match="this store has no conditional creation"):
            Claims(f"s3://{BUCKET}/{tmp_path.name}", "job")
    finally:
        s3.knows_conditions = True

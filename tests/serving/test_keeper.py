"""Jobs, photos, and when a draining server is done."""

from __future__ import annotations

from serving.keeper import Keeper, KeptPhoto


def make(**options: float) -> Keeper:
    return Keeper(**{"photos": 100, "jobs": 2, "job_age": 1000.0, **options})  # type: ignore[arg-type]


def beat(keeper: Keeper, name: str, draining: float = 0.0, requests: float = 0.0) -> bool:
    return keeper.beat(name, {"draining": draining, "open_requests": requests})


def test_draining_ends_when_every_answer_has_gone() -> None:
    keeper = make()
    assert not beat(keeper, "a", requests=1) and not beat(keeper, "b")
    keeper.beat("engine", {"engine_images_total": 3.0})
    assert not keeper.drain()
    assert beat(keeper, "a", requests=1) and beat(keeper, "b")  # told so
    assert beat(keeper, "a", 1, 1) and not keeper.drain()  # b has not heard it yet
    assert beat(keeper, "b", 1) and not keeper.drain()  # a is still answering
    beat(keeper, "a", 1)
    assert keeper.drain()
    # One that was started anew knows nothing, and does not guess.
    assert not make().drain()


def test_draining_waits_for_jobs() -> None:
    keeper = make()
    beat(keeper, "a", 1)
    job = keeper.add_job("alice", 2, "image/png", "a")
    assert job is not None and not keeper.drain()
    keeper.job_running(job)
    keeper.job_result(job, b"1")
    assert not keeper.drain()
    keeper.job_result(job, b"2")
    assert keeper.drain()


def test_jobs_are_their_owners_and_bounded() -> None:
    keeper = make()
    beat(keeper, "a")
    first = keeper.add_job("alice", 1, "image/png", "a")
    second = keeper.add_job("bob", 1, "image/png", "a")
    assert first and second and keeper.add_job("bob", 1, "image/png", "a") is None
    assert keeper.job(first, "bob") is None
    row = keeper.job(first, "alice")
    assert row is not None and row["state"] == "queued"
    keeper.job_result(first, b"x")
    assert keeper.job_image(first, "bob", 0) is None
    assert keeper.job_image(first, "alice", 0) == ("image/png", b"x")
    assert keeper.job_image(first, "alice", 1) is None
    # One that has ended makes room.
    assert keeper.add_job("bob", 1, "image/png", "a") and keeper.job(first, "alice") is None
    # Those of a process that is not heard of have failed.
    gone = make()
    lost = gone.add_job("alice", 1, "image/png", "nobody")
    assert lost
    row = gone.job(lost, "alice")
    assert row is not None and row["state"] == "failed" and "send it again" in row["message"]


def test_photos_keep_to_their_bytes() -> None:
    keeper = make(photos=10)
    keeper.put_photo("a", KeptPhoto(b"123456", "crop", "a.png"))
    last = KeptPhoto(b"123456", "pad", "")
    keeper.put_photo("b", last)
    assert keeper.get_photo("a") is None and keeper.get_photo("b") == last

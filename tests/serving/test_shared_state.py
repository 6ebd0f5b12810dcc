"""Shared state: jobs, photos, and the end of draining."""

from __future__ import annotations

from serving.shared_state import SharedState, StoredPhoto
from serving.submissions import TaskStatus


def make(**options: float) -> SharedState:
    settings = {"photos": 100, "jobs": 2, "job_bytes": 100, "job_age": 1000.0, **options}
    return SharedState(**settings)  # type: ignore[arg-type]


def beat(state: SharedState, name: str, draining: float = 0.0, requests: float = 0.0) -> bool:
    return state.heartbeat(name, {"draining": draining, "open_requests": requests})


def test_draining_ends_when_every_request_is_answered() -> None:
    state = make()
    assert not beat(state, "a", requests=1) and not beat(state, "b")
    state.heartbeat("engine", {"engine_images_total": 3.0})
    assert not state.drain()
    assert beat(state, "a", requests=1) and beat(state, "b")  # the reply asks to drain
    assert beat(state, "a", 1, 1) and not state.drain()  # b has not reported draining
    assert beat(state, "b", 1) and not state.drain()  # a has an open request
    beat(state, "a", 1)
    assert state.drain()
    # A restarted actor knows of no ingress and must not report that draining is done.
    assert not make().drain()


def test_draining_waits_for_jobs() -> None:
    state = make()
    beat(state, "a", 1)
    job = state.add_job("alice", 2, "a")
    assert job is not None and not state.drain()
    assert state.job_running(job, TaskStatus("decode", 0, 3, 10))
    answer = state.job(job, "alice")
    assert answer is not None and (answer.state, answer.step, answer.steps) == ("running", 3, 10)
    state.job_result(job, b"1")
    assert not state.drain()
    state.job_result(job, b"2")
    assert state.drain()


def test_a_job_is_cancelled() -> None:
    state = make()
    beat(state, "a", 1)
    job = state.add_job("alice", 2, "a")
    assert job is not None and state.job_running(job, TaskStatus())
    state.job_result(job, b"1")
    assert state.cancel_job(job, "bob") is None
    answer = state.cancel_job(job, "alice")
    assert answer is not None and answer.state == "cancelled" and len(answer.results) == 1
    # What runs is told to stop; what it still sends is dropped, and draining does not wait.
    assert not state.job_running(job, TaskStatus())
    state.job_result(job, b"2")
    answer = state.cancel_job(job, "alice")
    assert answer is not None and answer.state == "cancelled" and answer.done == 1
    assert state.drain()


def test_jobs_belong_to_their_owner_and_are_bounded() -> None:
    state = make()
    beat(state, "a")
    first = state.add_job("alice", 1, "a")
    second = state.add_job("bob", 1, "a")
    assert first and second and state.add_job("bob", 1, "a") is None
    assert state.job(first, "bob") is None
    found = state.job(first, "alice")
    assert found is not None and found.state == "queued"
    state.job_result(first, b"x")
    assert state.job_image(first, "bob", 0) is None
    assert state.job_image(first, "alice", 0) == b"x"
    assert state.job_image(first, "alice", 1) is None
    # A new job replaces an ended job.
    assert state.add_job("bob", 1, "a") and state.job(first, "alice") is None
    # Jobs of a process without heartbeats have failed.
    state = make()
    lost = state.add_job("alice", 1, "dead")
    assert lost
    found = state.job(lost, "alice")
    assert found is not None and found.state == "failed" and "send it again" in str(found.message)


def test_images_of_jobs_are_bounded_in_bytes() -> None:
    state = make(job_bytes=10)
    beat(state, "a")
    first, second = (state.add_job("alice", 2, "a") for _ in range(2))
    assert first and second
    for _ in range(2):
        state.job_result(first, b"123")
    # The oldest ended job makes room.
    state.job_result(second, b"12345")
    assert state.job(first, "alice") is None
    state.job_result(second, b"123456")
    found = state.job(second, "alice")
    assert found is not None and (found.state, found.done) == ("failed", 0)
    assert "more than 10 bytes" in (found.message or "")


def test_photos_belong_to_their_owner_and_are_bounded_in_bytes() -> None:
    state = make(photos=10)
    state.put_photo("alice", "a", StoredPhoto(b"123456", "a.png"))
    assert state.get_photo("bob", "a") is None
    last = StoredPhoto(b"123456", "")
    state.put_photo("alice", "b", last)
    assert state.get_photo("alice", "a") is None and state.get_photo("alice", "b") == last

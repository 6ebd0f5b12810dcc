"""Bounds of a process, and the Retry-After that it computes from its queue."""

from __future__ import annotations

import contextlib

import pytest

from serving.admission import Admission, Pace
from serving.errors import ApiError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_idle_hour_does_not_slow_the_pace() -> None:
    clock = Clock()
    pace = Pace(clock, last=5)
    assert pace.seconds == 1.0
    for _ in range(3):
        pace.working(True)
        clock.now += 0.5
        pace.done()
        pace.working(False)
        clock.now += 3600
    assert pace.seconds == pytest.approx(0.5)
    # A batch of four in two seconds is half a second each; then only the last ones count.
    pace.working(True)
    clock.now += 2.0
    for _ in range(4):
        pace.done()
    assert pace.seconds == pytest.approx(0.5)
    clock.now += 8.0
    for _ in range(4):
        pace.done()
    assert pace.seconds == pytest.approx(2.0)


def test_a_full_queue_says_when_to_come_back() -> None:
    admission, clock = Admission(images=10, body_bytes=100), Clock()
    admission.pace = Pace(clock)
    with admission.room(8):
        clock.now += 4.0
        for _ in range(2):
            admission.pace.done()  # two seconds each
        with pytest.raises(ApiError) as e, admission.room(3):
            pass
        assert e.value.status == 503 and e.value.headers["Retry-After"] == "16"
        assert "8 images" in e.value.message and admission.images == 8
        with admission.room(2):
            assert admission.images == 10
    assert (admission.images, admission.refused) == (0, 1)
    # More than the whole queue is served where nothing else is.
    with admission.room(30):
        assert admission.images == 30


def test_bytes_of_bodies_are_bounded() -> None:
    admission = Admission(images=10, body_bytes=100)
    with admission.body(60), pytest.raises(ApiError) as e, admission.body(41):
        pass
    assert e.value.status == 503 and int(e.value.headers["Retry-After"]) >= 1
    with contextlib.suppress(ZeroDivisionError), admission.body(100):
        _ = 1 / 0
    assert admission.bytes == 0

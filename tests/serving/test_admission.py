"""Admission limits of a process, and the Retry-After estimate."""

from __future__ import annotations

import contextlib

import pytest

from serving.admission import Admission, Throughput
from serving.errors import ApiError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_throughput_ignores_idle_time() -> None:
    clock = Clock()
    throughput = Throughput(clock, window=5)
    assert throughput.seconds_per_image == 1.0
    for _ in range(3):
        throughput.set_busy(True)
        clock.now += 0.5
        throughput.record_image()
        throughput.set_busy(False)
        clock.now += 3600
    assert throughput.seconds_per_image == pytest.approx(0.5)
    # A batch of four in two seconds is half a second per image; then the window moves on.
    throughput.set_busy(True)
    clock.now += 2.0
    for _ in range(4):
        throughput.record_image()
    assert throughput.seconds_per_image == pytest.approx(0.5)
    clock.now += 8.0
    for _ in range(4):
        throughput.record_image()
    assert throughput.seconds_per_image == pytest.approx(2.0)


def test_a_full_queue_answers_with_retry_after() -> None:
    admission, clock = Admission(images=10, body_bytes=100), Clock()
    admission.throughput = Throughput(clock)
    with admission.admit_images(8):
        clock.now += 4.0
        for _ in range(2):
            admission.throughput.record_image()  # two seconds each
        with pytest.raises(ApiError) as e, admission.admit_images(3):
            pass
        assert e.value.status == 503 and e.value.headers["Retry-After"] == "16"
        assert "8 images" in e.value.message and admission.images == 8
        with admission.admit_images(2):
            assert admission.images == 10
    assert (admission.images, admission.rejected) == (0, 1)
    # An idle process admits more images than its limit.
    with admission.admit_images(30):
        assert admission.images == 30


def test_bytes_of_bodies_are_bounded_as_they_arrive() -> None:
    admission = Admission(images=10, body_bytes=100)
    with admission.admit_body() as reserve:
        # A body that has sent nothing takes no room.
        with admission.admit_body() as other:
            other(100)
        reserve(60)
        with pytest.raises(ApiError) as e, admission.admit_body() as other:
            other(40)
            assert admission.bytes == 100
            other(1)
        assert e.value.status == 503 and int(e.value.headers["Retry-After"]) >= 1
        assert admission.bytes == 60
    with contextlib.suppress(ZeroDivisionError), admission.admit_body() as reserve:
        reserve(1000)  # alone, a body of any size is admitted
        _ = 1 / 0
    assert admission.bytes == 0

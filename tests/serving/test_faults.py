"""Dying and stalling engines, shutdown and limits on real servers."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.conftest import Server, photo_bytes, serving, wait_until
from tests.serving.test_http import INK, error_of
from tests.serving.test_http_slow import SLOW, text_of

pytestmark = pytest.mark.slow
LOAD = 10


@pytest.fixture(scope="module")
def two(shop_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two engines; the last test here ends it."""
    with serving(
        shop_home,
        tmp_path_factory.mktemp("two"),
        "--replicas",
        "2",
        "--set",
        "limits.seconds=400",
        "--set",
        "drain=200",
    ) as running:
        yield running


def test_killed_engines_lose_no_accepted_request(two: Server) -> None:
    wait_until(lambda: len(two.replicas("engine")) == 2)
    stop = threading.Event()
    statuses: list[int | str] = []

    def client(seed: int) -> None:
        with httpx.Client(timeout=400) as http:
            while not stop.is_set():
                body = {"images": [text_of(photo_bytes(seed))],
                        "mix": {"styles": ["ink"], "decode_steps": 100}}  # fmt: skip
                events = bool(seed % 2)  # half of the clients watch the progress
                headers = {"Accept": "text/event-stream"} if events else {}
                answer = http.post(two.url + "/v1/stylize", json=body, headers=headers)
                failed = events and "event: result" not in answer.text
                statuses.append(answer.text if failed else answer.status_code)

    with ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(client, 900 + i) for i in range(6)]
        wait_until(lambda: len(statuses) >= 6)
        victims = two.replicas("engine")
        os.kill(victims[0], signal.SIGKILL)
        wait_until(lambda: len(two.replicas("engine")) == 2 and victims[0] not in
                   two.replicas("engine"))  # fmt: skip
        # Kill both engines.
        for pid in two.replicas("engine"):
            os.kill(pid, signal.SIGKILL)
        time.sleep(3)
        stop.set()
        for c in clients:
            c.result(timeout=400)
    assert set(statuses) == {200} and len(statuses) >= 12
    assert two.metric("engine_retries_total") >= 1
    assert two.get("/readyz").status_code == 200


@pytest.mark.ci
def test_shutdown_finishes_accepted_requests(two: Server) -> None:
    wait_until(lambda: two.metric("open_requests") == 0, 30)
    where = two.post("/v1/jobs", json={"images": [text_of(photo_bytes(i)) for i in range(930, 936)],
                                       "mix": SLOW}).headers["location"]  # fmt: skip
    states: list[dict[str, Any]] = []

    def follow() -> None:
        while True:
            try:
                states.append(two.get(where).json())
            except (httpx.HTTPError, ValueError):
                return
            time.sleep(0.1)

    with ThreadPoolExecutor(LOAD + 1) as pool:
        follower = pool.submit(follow)
        sent: list[Future[httpx.Response]] = [
            pool.submit(two.stylize, photo_bytes(950 + i), {**SLOW, "decode_steps": 200})
            for i in range(LOAD)
        ]
        wait_until(lambda: two.metric("in_flight") >= LOAD, 30)
        two.process.send_signal(signal.SIGTERM)
        # From the next heartbeat on, new requests get a 503, not a refused connection.
        wait_until(lambda: two.get("/readyz").status_code == 503, 30)
        late = two.stylize(photo_bytes(), INK)
        assert "closing" in error_of(late, 503)["message"] and int(late.headers["retry-after"]) > 0
        answers = [f.result(timeout=120) for f in sent]
        follower.result(timeout=120)
    assert [a.status_code for a in answers] == [200] * LOAD
    assert all(a.content.startswith(b"\x89PNG") for a in answers)
    # The job is finished too, and its state can be read until the end.
    assert states[-1]["done"] == 6 and states[-1]["state"] == "done"
    assert two.process.wait(timeout=90) == 0
    with pytest.raises(httpx.TransportError):
        two.get("/healthz")


@pytest.fixture(scope="module")
def strict(shop_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with low limits, on which every step counts as a stall."""
    options = ("stall=0.0005", "limits.seconds=3", "bodies=100000", "limits.body_bytes=90000",
               "limits.pixels=4000", "limits.images=2", "limits.job_images=3",
               "limits.styles=2", "limits.encode_steps=200", "drain=2",
               "root_path=/shop")  # fmt: skip
    sets = [part for o in options for part in ("--set", o)]
    with serving(shop_home, tmp_path_factory.mktemp("strict"), *sets) as running:
        yield running


def test_limits_come_from_the_configuration(strict: Server) -> None:
    small = photo_bytes()
    assert strict.get("/v1/info").json()["limits"]["pixels"] == 4_000
    wide = strict.stylize(photo_bytes(size=(100, 60)), INK)
    assert error_of(wide, 413)["value"] == 6_000
    long = strict.stylize(small + b"0" * 90_000, INK)
    assert error_of(long, 413)["allowed"] == "at most 90,000 bytes"
    mix = {"styles": ["ink", "oil", "sepia"]}
    assert error_of(strict.stylize(small, mix), 422)["allowed"] == "at most 2"
    body = {"images": [text_of(small)] * 3, "mix": INK}
    assert error_of(strict.post("/v1/stylize", json=body), 422)["value"] == 3
    assert strict.post("/v1/jobs", json=body).status_code == 202
    body["images"] = [text_of(small)] * 4
    assert error_of(strict.post("/v1/jobs", json=body), 422)["value"] == 4


def test_an_incomplete_body_times_out(strict: Server) -> None:
    host, _, port = strict.url.removeprefix("http://").partition(":")
    head = (f"POST /v1/stylize HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            "Content-Length: 80000\r\n\r\n{")  # fmt: skip
    start = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=60) as slow:
        slow.sendall(head.encode())
        # Only bytes that have arrived are reserved.
        large = {"images": [text_of(photo_bytes()) + " " * 50_000], "mix": INK}
        assert strict.post("/v1/stylize", json=large).status_code == 200
        answer = ""
        while "bytes a second" not in answer:  # the body may arrive after the head
            part = slow.recv(4000).decode()
            assert part, answer
            answer += part
    assert " 408 " in answer.splitlines()[0]
    assert 2.5 < time.monotonic() - start < 15


def test_a_proxy_may_strip_a_prefix(strict: Server) -> None:
    document = strict.get("/openapi.json").json()
    assert document["servers"] == [{"url": "/shop"}]
    body = {"images": [text_of(photo_bytes())], "mix": INK}
    job = strict.post("/v1/jobs", json=body)
    where = job.headers["location"]
    assert where.startswith("/shop/v1/jobs/")
    assert strict.get(where.removeprefix("/shop")).status_code == 200


def test_slow_requests_time_out(strict: Server) -> None:
    images = [text_of(photo_bytes(960 + i)) for i in range(2)]

    def ask(seed: int) -> httpx.Response:
        mix = {
            **SLOW,
            "styles": ["ink", "oil"],
            "blend": "noise",
            "decode_steps": 200,
        }
        return strict.post("/v1/stylize", json={"images": images, "mix": mix})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    late = [a for a in answers if a.status_code != 200]
    assert late
    for answer in late:
        assert error_of(answer, 504)["allowed"] == "at most 3 s"
    wait_until(lambda: strict.metric("in_flight") == 0, 10)


def test_a_stalled_engine_is_replaced(strict: Server) -> None:
    """Every step counts as a stall, so that health checks fail under load."""
    before = wait_until(lambda: strict.replicas("engine"))
    stop = threading.Event()

    def load(i: int) -> None:
        while not stop.is_set():
            strict.stylize(photo_bytes(970 + i), {**SLOW, "decode_steps": 100})

    with ThreadPoolExecutor(3) as pool:
        for i in range(3):
            pool.submit(load, i)
        ready = wait_until(lambda: (a := strict.get("/readyz")).status_code == 503 and a, 60)
        assert "at one step" in error_of(ready, 503)["message"]
        wait_until(lambda: (now := strict.replicas("engine")) and not set(now) & set(before), 120)
        stop.set()
    assert wait_until(lambda: strict.stylize(photo_bytes(), INK).status_code == 200, 60)

"""API keys, changing styles, overload and disconnects on a real server; the Python client."""

from __future__ import annotations

import base64
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from factory.core.home import Home
from factory.registry import Registry
from osasis.errors import UserError
from serving.auth import read_keys
from serving.client import Client, ServerError
from tests.serving.conftest import QUEUE, Server, photo_bytes, pixels, register, wait_until
from tests.serving.test_http import INK, error_of

pytestmark = pytest.mark.slow

# About 30 forward passes: long enough to fill the queue, short enough for a busy machine.
SLOW: dict[str, Any] = {"styles": ["ink"], "decode_steps": 50, "encode_steps": 10}


def test_keys_are_required_and_rate_limited(server: Server, keys: dict[str, str]) -> None:
    plain = {"Authorization": ""}
    for answer in (
        server.get("/v1/styles", headers=plain),
        server.stylize(photo_bytes(), INK, headers=plain),
        server.post("/v1/jobs", json={}, headers={"Authorization": "Bearer sf_wrong"}),
        server.post("/v1/encodings", json={}, headers={"X-API-Key": "sf_wrong", **plain}),
    ):
        assert error_of(answer, 401)["field"] == "Authorization"
        assert answer.headers["www-authenticate"].startswith("Bearer")
    # The page, health checks and metrics need no key.
    for path in ("/", "/healthz", "/readyz", "/metrics", "/v1/styles/ink/preview"):
        assert server.get(path, headers=plain).status_code == 200, path
    bob = {"X-API-Key": keys["bob"], **plain}
    answers = [server.get("/v1/styles", headers=bob) for _ in range(5)]
    assert [a.status_code for a in answers] == [200] * 4 + [429]
    assert error_of(answers[4], 429)["allowed"] == "4 a minute"
    assert 1 <= int(answers[4].headers["retry-after"]) <= 15  # four per minute: one per 15 s
    assert server.get("/v1/styles").status_code == 200  # alice has her own limit
    # A job is visible to its owner only.
    sent = server.post("/v1/jobs", json={"images": [text_of(photo_bytes())], "mix": INK})
    other = server.get(sent.headers["location"], headers=plain)
    assert other.status_code == 401
    # Neither the key file nor the log contains a key.
    written = Path(keys["path"]).read_text() + server.log.read_text()
    assert keys["alice"] not in written and keys["bob"] not in written
    assert {name for name, _ in read_keys(Path(keys["path"])).values()} == {"alice", "bob"}
    assert Path(keys["path"]).stat().st_mode & 0o077 == 0


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_promoted_version_is_served_within_seconds(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = server.home
    unknown = server.stylize(photo_bytes(), {"styles": ["slate"]})
    assert error_of(unknown, 422)["field"] == "mix.styles[0].style"
    register(path, "slate", 31, tmp_path_factory.mktemp("slate"))

    def version() -> str:
        answer = server.stylize(photo_bytes(), {"styles": ["slate"]})
        return answer.headers.get("x-style-version", "")

    def seconds_until(wanted: str) -> float:
        start = time.monotonic()
        wait_until(lambda: version() == wanted, 30)
        return time.monotonic() - start

    assert seconds_until("slate:1") < 15
    first = server.stylize(photo_bytes(), {"styles": ["slate"]})
    register(path, "slate", 32, tmp_path_factory.mktemp("slate2"))
    registry = Registry(Home(path))
    registry.promote("slate:2")
    assert seconds_until("slate:2") < 15
    second = server.stylize(photo_bytes(), {"styles": ["slate"]})
    assert np.abs(pixels(first.content) - pixels(second.content)).max() > 0.05
    # The old version is served by its number, and as the champion after a rollback.
    old = server.stylize(photo_bytes(), {"styles": ["slate:1"]})
    assert np.array_equal(pixels(old.content), pixels(first.content))
    registry.rollback("slate")
    assert seconds_until("slate:1") < 15
    assert "champion" in server.get("/v1/styles/slate").json()["aliases"]


def test_a_broken_style_does_not_affect_others(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    broken = register(server.home, "zebra", 41, tmp_path_factory.mktemp("zebra"))
    folder, kept = broken.folder(), tmp_path_factory.mktemp("kept") / "bundle"
    shutil.copytree(folder, kept)
    for file in folder.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    mix = {"styles": ["zebra"]}
    bad = wait_until(lambda: (a := server.stylize(photo_bytes(), mix)).status_code != 422 and a, 30)
    # A permanent failure: no Retry-After, and no path of the server; the log has both.
    assert error_of(bad, 503)["message"] == (
        "style zebra:1 cannot be loaded: its files are missing or damaged"
    )
    assert "retry-after" not in bad.headers
    assert wait_until(lambda: str(folder) in server.log.read_text(), 10)
    both = server.stylize(photo_bytes(), {"styles": ["ink", "zebra"]})
    assert error_of(both, 503)["field"] == "mix.styles"
    assert server.stylize(photo_bytes(), INK).status_code == 200
    # A job with the broken style fails with the reason.
    job = {"images": [text_of(photo_bytes())], "mix": mix}
    where = server.post("/v1/jobs", json=job).headers["location"]
    failed = wait_until(lambda: (j := server.get(where).json())["state"] == "failed" and j)
    assert "zebra:1" in failed["message"] and failed["done"] == 0
    # Once repaired, the style is served.
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    assert server.stylize(photo_bytes(), mix).status_code == 200


def test_requests_above_the_queue_limit_are_refused(server: Server) -> None:
    server.stylize(photo_bytes(), SLOW)  # measures the seconds per image

    def ask(i: int) -> tuple[httpx.Response, float]:
        start = time.monotonic()
        answer = server.stylize(photo_bytes(700 + i), SLOW)
        return answer, time.monotonic() - start

    with ThreadPoolExecutor(2 * QUEUE) as pool:
        answers = list(pool.map(ask, range(2 * QUEUE)))
    good = [s for a, s in answers if a.status_code == 200]
    refused = [(a, s) for a, s in answers if a.status_code != 200]
    assert len(good) >= QUEUE and refused
    for answer, seconds in refused:
        error = error_of(answer, 503)
        assert error["allowed"] == f"at most {QUEUE}" and seconds < max(good)
        # The estimate is bounded by the slowest admitted request, with a margin.
        after = int(answer.headers["retry-after"])
        assert after == error["retry_after"] and 1 <= after <= 2 * max(good) + 2
    assert server.stylize(photo_bytes(), SLOW).status_code == 200
    assert wait_until(lambda: server.metric("rejected_total") >= len(refused), 10)


def test_requests_of_disconnected_clients_are_cancelled(server: Server) -> None:
    wait_until(lambda: server.metric("in_flight") == 0, 30)
    images = [text_of(photo_bytes(730 + i)) for i in range(8)]
    body = {"images": images, "mix": {**SLOW, "decode_steps": 100}}
    before = server.metric("engine_images_total")
    whole = timed(lambda: server.post("/v1/stylize", json=body))
    abandoned = server.metric("engine_abandoned_total")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(server.url + "/v1/stylize", json=body,
                   headers=server.headers, timeout=whole / 4)  # fmt: skip
    wait_until(lambda: server.metric("engine_abandoned_total") > abandoned, 20)
    wait_until(lambda: server.metric("in_flight") == 0, 10)
    # The engine is free: the next request does not wait for the cancelled work.
    assert float(server.stylize(photo_bytes(), INK).headers["x-queue-seconds"]) < whole / 2
    assert server.metric("engine_images_total") >= before


def timed(call: Any) -> float:
    start = time.monotonic()
    assert call().status_code == 200
    return time.monotonic() - start


def test_the_python_client(server: Server, keys: dict[str, str], tmp_path: Path) -> None:
    client = Client(server.url, keys["alice"])
    assert {"ink", "oil", "sepia"} <= {s["id"] for s in client.styles()}
    assert [s["id"] for s in client.styles("paint")] == ["oil"]
    (tmp_path / "photo.png").write_bytes(photo_bytes(740))
    photo = client.encode(tmp_path / "photo.png", style="oil")
    mix = {"styles": ["oil"], "strength": 0.6}
    by_id = client.stylize(photo, mix)
    by_file = client.stylize(tmp_path / "photo.png", mix)
    assert by_id.size == (40, 48)
    assert np.array_equal(np.asarray(by_id), np.asarray(by_file))
    small = client.stylize(photo, mix, size="base", crop=(0, 8, 40))
    assert small.size == (32, 32)
    assert client.faces(photo) == []
    # The client sends the photo again if its id has expired.
    forgotten = type(photo)("0" * 32, photo.data)
    assert np.array_equal(np.asarray(client.stylize(forgotten, mix)), np.asarray(by_id))
    masked = {"styles": [{"style": "oil", "mask": "m"}]}
    assert client.stylize(photo, masked, masks={"m": photo_bytes(741)}).size == (40, 48)
    with pytest.raises(ServerError, match="strength") as e:
        client.stylize(photo, {"styles": ["oil"], "strength": 9})
    assert e.value.status == 422 and e.value.error["field"] == "mix.strength"
    with pytest.raises(UserError, match="cannot be reached"):
        Client("http://127.0.0.1:9").styles()
    with pytest.raises(ServerError) as refused:
        Client(server.url).styles()
    assert refused.value.status == 401
    # The client retries a busy server after Retry-After.
    with ThreadPoolExecutor(QUEUE + 6) as pool:
        ask = Client(server.url, keys["alice"], tries=20).stylize
        sent = [pool.submit(ask, photo_bytes(750 + i), SLOW) for i in range(QUEUE + 6)]
        assert all(f.result(timeout=120).size == (40, 48) for f in sent)

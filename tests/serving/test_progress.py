"""What the page asks of a real server: events, provenance, examples, cancelled jobs."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import numpy as np
from PIL import Image

from serving.api.events import TimeLeft
from serving.submissions import TaskStatus
from tests.serving.conftest import TIMEOUT, Server, photo_bytes, pixels, wait_until

# Takes many seconds.
SLOW = {"styles": ["oil"], "decode_steps": 200, "encode_steps": 200, "t0": 0.9}


def events(lines: Any) -> Any:
    """Server-sent events of a stream of lines, as (name, data)."""
    name = ""
    for line in lines:
        kind, _, text = line.partition(": ")
        if kind == "event":
            name = text
        elif kind == "data":
            yield name, json.loads(text)


def request(server: Server, photo: bytes, mix: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``httpx.stream`` for a stylization with events."""
    return {
        "method": "POST",
        "url": server.url + "/v1/stylize",
        "headers": {**server.headers, "Accept": "text/event-stream"},
        "json": {"images": [base64.b64encode(photo).decode()], "mix": mix},
        "timeout": TIMEOUT,
    }


def test_events_tell_the_steps_and_then_the_result(server: Server) -> None:
    photo, mix = photo_bytes(850), {"styles": ["ink"], "decode_steps": 50}
    with httpx.stream(**request(server, photo, mix)) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        found = list(events(answer.iter_lines()))
    assert {name for name, _ in found[:-1]} == {"progress"}
    stages = [data["stage"] for _, data in found[:-1]]
    assert stages == sorted(stages, key=["load", "queue", "encode", "decode"].index)
    steps = [data["step"] for _, data in found[:-1] if data["stage"] == "decode"]
    assert steps == sorted(steps)
    name, result = found[-1]
    plain = server.stylize(photo, mix, headers={"Accept": "application/json"}).json()
    assert name == "result" and result.keys() == plain.keys()
    image = base64.b64decode(result["images"][0]["image"])
    other = base64.b64decode(plain["images"][0]["image"])
    assert np.array_equal(pixels(image), pixels(other))


def test_errors_are_events_or_statuses(server: Server) -> None:
    # What is known before the work starts is a status.
    with httpx.stream(**request(server, photo_bytes(851), {"styles": []})) as answer:
        assert answer.status_code == 422
    with httpx.stream(**request(server, photo_bytes(851), {"styles": ["nobody"]})) as answer:
        ((name, data),) = events(answer.iter_lines())
    assert name == "error" and data["error"]["field"] == "mix.styles[0].style"


def test_a_client_that_leaves_cancels_the_work(server: Server) -> None:
    abandoned = server.metric("engine_abandoned_total")
    with httpx.stream(**request(server, photo_bytes(852), SLOW)) as answer:
        for _, data in events(answer.iter_lines()):
            if data.get("step"):
                break
    wait_until(lambda: server.metric("engine_abandoned_total") > abandoned, 20)


def test_a_job_is_cancelled(server: Server) -> None:
    files = [("image", (f"{i}.png", photo_bytes(853 + i))) for i in range(2)]
    job = server.post("/v1/jobs", files=files, data={"mix": json.dumps(SLOW)}).json()
    path = f"/v1/jobs/{job['id']}"
    wait_until(lambda: server.get(path).json()["step"] > 0, 60)
    abandoned = server.metric("engine_abandoned_total")
    assert httpx.delete(server.url + path, timeout=TIMEOUT).status_code == 401
    cancelled = httpx.delete(server.url + path, headers=server.headers, timeout=TIMEOUT)
    assert cancelled.json()["state"] == "cancelled"
    wait_until(lambda: server.metric("engine_abandoned_total") > abandoned, 20)
    assert server.get(path).json()["state"] == "cancelled"
    unknown = httpx.delete(server.url + "/v1/jobs/x", headers=server.headers, timeout=TIMEOUT)
    assert unknown.status_code == 404


def test_inspect_tells_how_an_image_was_made(server: Server) -> None:
    made = server.stylize(photo_bytes(855), {"styles": ["ink", "oil"], "strength": 0.7})
    for kind in ("PNG", "JPEG"):
        answer = server.post("/v1/inspect", files={"image": ("a", photo_bytes(856, kind=kind))})
        assert answer.json() == {"provenance": None}
    found = server.post("/v1/inspect", files={"image": ("a.png", made.content)}).json()
    provenance = found["provenance"]
    assert provenance["mix"]["strength"] == 0.7 and provenance["source"] == "photo.png"
    assert [s["reference"] for s in provenance["styles"]] == ["ink:1", "oil:1"]
    two = [("image", ("a.png", made.content))] * 2
    for files, status in ((two, 422), ([("mask.a", ("a.png", made.content))], 422), (None, 415)):
        answer = server.post("/v1/inspect", files=files, data={"x": "1"})
        assert answer.status_code == status
    damaged = server.post("/v1/inspect", files={"image": ("a.png", made.content[:300])})
    assert damaged.status_code == 422


def test_a_style_tells_its_mix_and_shows_a_picture(server: Server) -> None:
    mix = server.get("/v1/styles/ink").json()["mix"]
    assert mix["level_weights"] == [1, 0, 0] and mix["content_cutoff"] == 32
    same = {**{k: v for k, v in mix.items() if k != "content_cutoff"}, "styles": ["ink"]}
    photo = photo_bytes(857)
    plain, explicit = (server.stylize(photo, m).content for m in ({"styles": ["ink"]}, same))
    assert np.array_equal(pixels(plain), pixels(explicit))
    # Without example photos, the style image stands for them.
    shown, style = (
        server.get(f"/v1/styles/ink/preview?kind={kind}").content for kind in ("stylized", "style")
    )
    assert shown == style


def test_example_photos_are_listed_and_need_no_key(server: Server) -> None:
    info = server.get("/v1/info").json()
    assert len(info["samples"]) == 12 and {"strength", "blend"} <= {
        c["name"] for c in info["controls"]
    }
    answer = httpx.get(server.url + info["samples"][0])
    assert Image.open(io.BytesIO(answer.content)).size == (64, 64)
    for name in ("nobody.png", "..%2Fcatalog.yaml"):
        assert httpx.get(f"{server.url}/page/samples/{name}").status_code == 404


def test_time_left_is_extrapolated_within_a_stage() -> None:
    now = 0.0
    clock = TimeLeft(lambda: now)
    assert clock.estimate(TaskStatus("queue", place=2), 1.5) == 4.5
    assert clock.estimate(TaskStatus("encode"), 1.5) is None
    now = 2.0
    assert clock.estimate(TaskStatus("encode", 0, 4, 10), 1.5) == 3.0
    assert clock.estimate(TaskStatus("decode", 0, 0, 5), 1.5) is None
    now = 3.0
    assert clock.estimate(TaskStatus("decode", 0, 5, 5), 1.5) == 0.0

"""Styles made from an image in a request."""

from __future__ import annotations

import base64
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factory.core.home import Home
from factory.registry import CANDIDATE, RegistrySnapshot
from osasis.bundles.base import read_base_info
from osasis.bundles.style import load_style
from serving.client import Client, ServerError
from serving.made_styles import MadeStyles
from tests.serving.conftest import Server, photo_bytes, pixels, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.ci]
PHOTO = photo_bytes(500)


def make(server: Server, image: bytes, **fields: str) -> Any:
    return server.post("/v1/styles", files={"image": ("style.png", image)}, data=fields)


def test_a_style_is_made_and_used(server: Server) -> None:
    answer = make(server, photo_bytes(70))
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert made["reference"] == made["id"] + ":1" and made["kept_seconds"] == 86_400
    again = server.post(
        "/v1/styles", json={"image": base64.b64encode(photo_bytes(70)).decode()}
    ).json()
    other = make(server, photo_bytes(71)).json()
    assert again["id"] == made["id"] != other["id"]
    images = {}
    for name in (made["id"], other["id"], "ink"):
        stylized = server.stylize(PHOTO, {"styles": [name]})
        assert stylized.status_code == 200, stylized.text
        images[name] = pixels(stylized.content)
    first, second, _ = images.values()
    assert float(np.abs(first - second).mean()) > 0.01
    # Made styles are not registered.
    listed = server.get("/v1/styles").json()["styles"]
    assert made["id"] not in [s["id"] for s in listed]


def test_the_style_of_a_request(server: Server) -> None:
    made = make(server, photo_bytes(72)).json()["id"]
    files = [("style_image", ("a.png", photo_bytes(72))), ("image", ("b.png", PHOTO))]
    own = server.post("/v1/stylize", files=files)
    assert own.status_code == 200, own.text
    assert own.headers["x-style-version"] == made + ":1"
    same = server.stylize(PHOTO, {"styles": [made]})
    assert np.array_equal(pixels(own.content), pixels(same.content))
    mix = {"styles": [{"style": "image", "weight": 1}, {"style": "oil", "weight": 3}]}
    blend = server.post("/v1/stylize", files=files, data={"mix": json.dumps(mix)})
    assert blend.headers["x-style-version"] == f"{made}:1,oil:1"
    assert blend.content != own.content
    mix = {"styles": ["oil"]}
    refused = server.post("/v1/stylize", files=files, data={"mix": json.dumps(mix)})
    assert refused.status_code == 422
    assert refused.json()["error"]["field"] == "mix.styles"


def test_a_style_is_registered_as_candidate(server: Server) -> None:
    answer = make(server, photo_bytes(73), name="z-made", keep="registered")
    assert answer.status_code == 200, answer.text
    assert answer.json() | {"seconds": 0} == {
        "id": "z-made", "reference": "z-made:1", "kept_seconds": None, "seconds": 0,
    }  # fmt: skip
    version = RegistrySnapshot(Home(server.home)).get("z-made", CANDIDATE)
    assert version.aliases == (CANDIDATE,)
    style = load_style(version.folder())
    assert style.settings.start == "prediction" and style.settings.iterations == 0
    wait_until(lambda: server.get("/v1/styles/z-made").status_code == 200)
    assert server.stylize(PHOTO, {"styles": ["z-made"]}).status_code == 200


def test_an_image_waits_for_training(server: Server) -> None:
    answer = make(server, photo_bytes(74), name="z-wait", keep="training")
    assert answer.status_code == 200, answer.text
    stored = Home(server.home).requested_styles / "z-wait.png"
    assert stored.read_bytes() == photo_bytes(74)
    taken = make(server, photo_bytes(75), name="z-wait", keep="training")
    assert taken.status_code == 422 and taken.json()["error"]["field"] == "name"
    assert stored.read_bytes() == photo_bytes(74)


@pytest.mark.parametrize(
    ("image", "fields", "status", "field"),
    [
        (b"no image", {}, 415, "image"),
        (photo_bytes(74)[:60], {}, 422, "image"),
        (photo_bytes(74), {"keep": "registered"}, 422, "name"),
        (photo_bytes(74), {"keep": "registered", "name": "../x"}, 422, "name"),
        (photo_bytes(74), {"keep": "always"}, 422, "keep"),
    ],
)
def test_refused(
    server: Server, image: bytes, fields: dict[str, str], status: int, field: str
) -> None:
    answer = make(server, image, **fields)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["field"] == field


def test_the_client_makes_a_style(server: Server, keys: dict[str, str]) -> None:
    client = Client(server.url, keys["alice"])
    assert client.make_style(photo_bytes(70)) == make(server, photo_bytes(70)).json()["id"]
    with pytest.raises(ServerError) as refused:
        client.make_style(photo_bytes(70), keep="registered")
    assert refused.value.error["field"] == "name"


def test_an_unknown_made_style(server: Server) -> None:
    answer = server.stylize(PHOTO, {"styles": ["image-0123456789abcdef"]})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "mix.styles[0].style"


def test_unused_styles_are_deleted(server: Server, tmp_path: Path) -> None:
    made = make(server, photo_bytes(70)).json()["id"]
    home = Home(tmp_path)
    base = read_base_info(Home(server.home).base_folder(None))["fingerprint"]
    kept = MadeStyles(home, base, age=30)
    shutil.copytree(MadeStyles(Home(server.home), base, 1).folder / made, kept.folder / made)
    assert kept.find(made) is not None and kept.find("image-..") is None
    kept.delete_old()
    assert kept.find(made) is not None
    assert MadeStyles(home, "another base", 30).find(made) is None
    time.sleep(0.02)
    MadeStyles(home, base, age=0.01).delete_old()
    assert kept.find(made) is None

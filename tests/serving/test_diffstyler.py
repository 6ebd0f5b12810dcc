"""A server with a base of DiffStyler: masks by HTTP, and the page with a photo of any shape."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from diffstyler.settings import make_settings
from diffstyler.style import Style, save_style
from factory.core.home import Home
from factory.methods import load_base
from factory.registry import Registry
from tests.diffstyler.tiny_base import FEW, write_base
from tests.diffstyler.tiny_sd import SIZE, half_mask, picture, random_adapter
from tests.serving.browser import far, put, shown, styled
from tests.serving.conftest import DESKTOP, Server, photo_bytes, pixels, serving

pytestmark = pytest.mark.slow
WIDTH, HEIGHT = 60, 40


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("page-diffstyler")
    home = Home(place / "home")
    base: Any = load_base(write_base(home.bases / "tiny-sd"))
    for name, outside in (("oil", "photo"), ("published", "base")):
        settings = make_settings("default", **FEW, outside=outside)
        adapter, info = random_adapter(base.networks, 1), {"base": base.fingerprint}
        save_style(place / name, Style(name, adapter, "painting", settings, info), picture(3))
        Registry(home).register(
            name, place / name, fingerprint=name, base=base.fingerprint, params={}, history=[],
            metrics={}, tags={},
        )  # fmt: skip
    with serving(home.path, place, "--base", "tiny-sd") as running:
        yield running


def test_outside_of_masks_is_what_the_style_says(server: Server) -> None:
    """A corpus does the same: tests/pipelines/test_diffstyler_masks.py."""
    photo, mask = photo_bytes(831, (SIZE, SIZE)), io.BytesIO()
    Image.fromarray(half_mask("left").numpy()).save(mask, "PNG")

    def right_half(style: str) -> np.ndarray:
        answer = server.post(
            "/v1/stylize",
            files={"image": ("photo.png", photo), "mask.left": ("left.png", mask.getvalue())},
            data={"mix": json.dumps({"styles": [{"style": style, "mask": "left"}]})},
        )
        assert answer.status_code == 200, answer.text
        return pixels(answer.content)[:, SIZE // 2 :]

    before = pixels(photo)[:, SIZE // 2 :]
    assert far(right_half("oil"), before) < 1e-6
    assert far(right_half("published"), before) > 0.05


def test_the_whole_photo_keeps_its_shape(browser: Any, server: Server) -> None:
    photo = photo_bytes(830, (WIDTH, HEIGHT))
    before = pixels(photo)
    context = browser.new_context(**DESKTOP)
    page = context.new_page()
    sent: list[dict[str, Any]] = []
    page.on("request", lambda r: r.url.endswith("/v1/stylize") and sent.append(r.post_data_json))
    page.goto(server.url)
    page.locator(".card").first.wait_for()
    styled(page, "oil", photo=830, size=(WIDTH, HEIGHT))
    page.locator("#part input[value=whole]").check()
    whole = shown(page)
    assert whole.shape == (HEIGHT, WIDTH, 3) and sent[-1]["fit"] == "whole"
    direct = server.stylize(photo, {"styles": ["oil"]}, fields={"fit": "whole"})
    assert far(whole, pixels(direct.content)) < 1e-3
    padded = server.stylize(photo, {"styles": ["oil"]}, fields={"fit": "pad"})
    assert far(whole, pixels(padded.content)) > 0.02
    # A mask has the photo's shape: the brush goes down the right border, which no square reaches.
    page.locator("#masking summary").click()
    page.locator("#paint").click()
    put(page, "brush", 100)
    box = page.locator("#mask").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(WIDTH / HEIGHT, rel=0.02)
    page.mouse.move(box["x"] + box["width"] - 4, box["y"] + 4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 4, box["y"] + box["height"] - 4, steps=8)
    page.mouse.up()
    part = shown(page)
    mask = Image.open(io.BytesIO(base64.b64decode(sent[-1]["masks"]["painted"])))
    assert mask.size == (384, 256)
    painted = np.asarray(mask)[:, :, 0] if mask.mode != "L" else np.asarray(mask)
    assert (painted[:, 340:] == 255).all() and (painted[:, :320] == 0).all()
    assert far(part[:, :48], before[:, :48]) < 1e-6  # the photo itself
    assert far(part[:, 55:], before[:, 55:]) > 0.05
    # Another shape has another mask; an address with a fit for squares alone is understood.
    page.locator("#part input[value=crop]").check()
    assert far(shown(page)[:, :48], before[:, :48]) > 0.05
    assert "masks" not in sent[-1]
    page.evaluate("location.hash = 'styles=oil:1&fit=pad'")
    assert far(shown(page), whole) < 1e-3
    assert sent[-1]["fit"] == "whole"
    context.close()

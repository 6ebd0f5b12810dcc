"""The page in a real Chromium: progress, history, addresses, results, jobs, parts of photos."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from osasis.bundles.base import load_base
from osasis.images.decoding import reads_kind
from osasis.text_edit import TextEdit, save_text_edit
from serving.api.page import SAMPLES
from tests.serving.browser import (
    card,
    far,
    finished,
    idle,
    proxied,
    put,
    shown,
    styled,
    upload,
    violations,
)
from tests.serving.conftest import Server, Visit, photo_bytes, pixels, register, wait_until
from tests.tiny import picture

pytestmark = pytest.mark.slow
# An address whose stylization takes many seconds.
SLOW = "#styles=ink:1&decode_steps=200&encode_steps=200&t0=0.9"


def group_photo() -> bytes:
    """Two portraits in a wide photo, off its centre."""
    photo = Image.new("RGB", (600, 260), (90, 100, 110))
    for name, left in (("portrait-02.png", 20), ("portrait-08.png", 370)):
        portrait = Image.open(SAMPLES / name).resize((200, 200), Image.Resampling.BICUBIC)
        photo.paste(portrait, (left, 30))
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_style_is_made_from_a_picture(visit: Visit, server: Server) -> None:
    page = visit()
    upload(page, photo_bytes(811, (32, 32)))
    finished(page)
    files = {"name": "My Picture.png", "mimeType": "image/png", "buffer": photo_bytes(812)}
    page.locator("#new-file").set_input_files(files)
    page.wait_for_function("() => /^Made in /.test(document.getElementById('status').innerText)")
    made = page.locator(".card").first
    assert made.inner_text() == "My Picture" and made.get_attribute("aria-pressed") == "true"
    assert page.locator("#new-name").input_value() == "my-picture"
    assert violations(page) == []
    page.locator("#new-name").fill("z-page")
    page.locator("#new-registered").click()
    page.wait_for_function("() => /Kept as z-page:1/.test(document.body.innerText)")
    wait_until(lambda: server.get("/v1/styles/z-page").status_code == 200)
    page.locator("#new-training").click()
    page.wait_for_function("() => /waits as z-page/.test(document.body.innerText)")
    assert (server.home / "requested-styles" / "z-page.png").read_bytes() == photo_bytes(812)


def test_progress_is_shown_and_work_is_cancelled(visit: Visit, server: Server) -> None:
    abandoned = server.metric("engine_abandoned_total")
    page = visit()
    page.evaluate(f"location.hash = {SLOW!r}")
    page.wait_for_function("() => location.hash.includes('t0')")
    upload(page, photo_bytes(810, (32, 32)))
    page.wait_for_function("() => /step \\d+ of \\d+/.test(document.body.innerText)")
    assert float(page.locator("#progress-bar").evaluate("e => e.value")) > 0
    assert violations(page) == []
    page.locator("#cancel").click()
    idle(page)
    assert page.locator("#status").inner_text() == "Cancelled."
    assert page.locator("#progress").is_hidden() and page.locator("#after").is_hidden()
    wait_until(lambda: server.metric("engine_abandoned_total") > abandoned, 20)
    # A change while slow work runs takes its place.
    put(page, "mix-t0", 0.85)
    page.wait_for_function("() => /step \\d+ of \\d+/.test(document.body.innerText)")
    page.wait_for_timeout(2100)
    page.locator("#reset").click()
    finished(page)
    idle(page)
    assert page.url.endswith("#styles=ink:1")


def test_an_address_restores_everything(visit: Visit) -> None:
    page = visit()
    page.locator("#samples button").nth(1).click()
    finished(page)
    card(page, "oil").click()
    put(page, "weight-oil", 0.25)
    put(page, "mix-strength", 0.8)
    wanted = shown(page)
    link = page.url
    assert link.endswith("#styles=ink:1,oil:0.25&strength=0.8&sample=portrait-02.png")
    page.reload()
    finished(page)
    assert far(shown(page), wanted) < 1e-3
    assert page.locator("#mix-strength").input_value() == "0.8"
    other = visit(url=link)  # of another visitor
    finished(other)
    assert far(shown(other), wanted) < 1e-3
    # Without settings in the address, those of the last visit, and an own photo, come back.
    upload(page, photo_bytes(811, (40, 32)))
    page.wait_for_function("() => !location.hash.includes('sample')")
    own = shown(page)
    page.goto(link.partition("#")[0] + "docs")
    page.goto(link.partition("#")[0])
    finished(page)
    assert far(shown(page), own) < 1e-3
    # An address of an unknown style or with nonsense is an error in words.
    page.goto(link.partition("#")[0] + "#styles=nobody:x,ink:-3&strength=much&crop=1,2")
    page.locator("#status.bad", has_text=re.compile("nobody|strength")).wait_for()


def test_a_dropped_result_restores_its_mix(visit: Visit, server: Server) -> None:
    mix = {"styles": [{"style": "oil", "weight": 2}, "sepia"], "strength": 0.7}
    result = server.stylize(photo_bytes(812, (48, 32)), mix, fields={"fit": "pad"})
    assert result.status_code == 200
    page = visit()
    upload(page, result.content, "result.png")
    page.locator("#notice").wait_for()
    assert "mix of result.png is restored" in page.locator("#notice").inner_text()
    assert "photo.png" in page.locator("#notice").inner_text()  # the photo it was made of
    upload(page, photo_bytes(812, (48, 32)), "photo.png")
    finished(page)
    assert page.url.endswith("#styles=oil:2,sepia:1&strength=0.7")
    page.locator("#part input[value=pad]").check()
    assert far(shown(page), pixels(result.content)) < 1e-3
    upload(page, result.content, "result.png")
    page.get_by_role("button", name="Use it as photo").click()
    page.wait_for_function("() => document.getElementById('code').textContent.includes('result')")


def test_results_are_kept_restored_and_compared(visit: Visit) -> None:
    page = visit()
    first = styled(page, "ink", size=(40, 32))
    page.locator("#past li").first.wait_for()
    put(page, "mix-strength", 0.3)
    second = shown(page)
    page.wait_for_function("() => document.querySelectorAll('#past li').length === 2")
    upload(page, photo_bytes(813, (32, 32)), "ben.png")
    page.wait_for_function("() => document.querySelectorAll('#past li').length === 3")
    page.locator("#past button").nth(2).click()  # the oldest
    page.wait_for_function("() => document.getElementById('code').textContent.includes('anna')")
    assert far(shown(page), first) < 1e-3 and far(first, second) > 0.02
    page.reload()
    page.wait_for_function("() => document.querySelectorAll('#past li').length === 3")
    assert page.locator("#side-by-side").is_disabled()
    for index in (0, 1):
        page.locator("#past input").nth(index).check()
    page.locator("#side-by-side").click()
    captions = page.locator("#pair figcaption").all_inner_texts()
    assert len(captions) == 2 and any("strength 0.3" in text for text in captions)
    assert violations(page) == []
    page.keyboard.press("Escape")
    # A result's mask comes back with it.
    page.locator("#masking summary").click()
    page.locator("#paint").click()
    page.locator("#mask").click()
    masked = shown(page)
    page.wait_for_function("() => document.querySelectorAll('#past li').length === 4")
    page.locator("#clear").click()
    assert far(shown(page), masked) > 0.02
    page.locator("#past button").first.click()
    page.wait_for_function("() => document.getElementById('code').textContent.includes('painted')")
    assert far(shown(page), masked) < 1e-3
    page.locator("#forget").click()
    page.locator("#history").wait_for(state="hidden")
    page.reload()
    page.locator(".card").first.wait_for()
    assert page.locator("#past li").count() == 0


def test_several_photos_are_a_job(visit: Visit, server: Server) -> None:
    page = visit()
    card(page, "ink").click()
    photos = [photo_bytes(820 + i, (32, 32)) for i in range(3)]
    page.locator("#file").set_input_files(
        [{"name": f"{i}.png", "mimeType": "image/png", "buffer": p} for i, p in enumerate(photos)]
    )
    page.locator("#batch-run").click()
    page.locator("#batch-photos .done").nth(2).wait_for()
    assert page.locator("#batch-count").inner_text() == "3 photos"
    with page.expect_download() as download:
        page.locator("#batch-photos button").nth(2).click()
    assert download.value.suggested_filename == "2-ink.png"
    wanted = server.stylize(photos[2], {"styles": ["ink"]})
    assert far(pixels(Path(download.value.path()).read_bytes()), pixels(wanted.content)) < 1e-3
    # Cancel stops the work on the server.
    abandoned = server.metric("engine_abandoned_total")
    page.evaluate(f"location.hash = {SLOW!r}")
    page.locator("#cancel").wait_for()
    page.locator("#cancel").click()
    page.locator("#batch-run").click()
    page.wait_for_function("() => /0 of 3 photos . step/.test(document.body.innerText)")
    page.locator("#batch-cancel").click()
    page.locator("#batch-cancel").wait_for(state="hidden")
    assert "Cancelled after 0 of 3" in page.locator("#status").inner_text()
    wait_until(lambda: server.metric("engine_abandoned_total") > abandoned + 1, 20)


def test_the_part_of_a_photo_is_chosen(visit: Visit, server: Server) -> None:
    photo = group_photo()
    page = visit()
    card(page, "ink").click()
    upload(page, photo)
    finished(page)
    idle(page)

    def wanted(**options: str) -> np.ndarray:
        answer = server.stylize(photo, {"styles": ["ink"]}, fields={"detail": "true", **options})
        assert answer.status_code == 200, answer.text
        return pixels(answer.content)

    assert "2 faces" in page.locator("#sizes").inner_text()
    assert page.locator("#part input[value=align]").is_checked()
    assert far(shown(page), wanted(fit="align")) < 1e-3
    page.locator("#part input[value=pad]").check()
    assert far(shown(page), wanted(fit="pad")) < 1e-3
    page.locator("#part input[value=crop]").check()
    assert far(shown(page), wanted()) < 1e-3
    # The square is moved by mouse, keyboard and faces.
    page.locator("#crop").click()
    box = page.locator("#box").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 40)
    page.mouse.down()
    page.mouse.move(box["x"] - 500, box["y"] + box["height"] - 40, steps=6)
    page.mouse.up()
    idle(page)
    assert "crop=0,0,260" in page.url
    page.locator("#box").focus()
    page.keyboard.press("-")
    page.keyboard.press("ArrowRight")
    idle(page)
    x, y, side = map(int, re.findall(r"crop=(\d+),(\d+),(\d+)", page.url)[0])
    assert 5 <= x <= 15 and y >= 1 and 250 <= side <= 256
    assert far(shown(page), wanted(crop=f"{x},{y},{side}")) < 1e-3
    page.get_by_role("button", name="Move the square to face 2").click()
    idle(page)
    x, _, side = map(int, re.findall(r"crop=(\d+),(\d+),(\d+)", page.url)[0])
    assert 300 <= x <= 400 and 150 <= side <= 260
    assert violations(page) == []


def test_the_page_below_a_path(visit: Visit, server: Server) -> None:
    with proxied(server, "/lab/styles") as url:
        page = visit(url=url)
        first = styled(page, "ink")
        page.locator(".card img.example").first.evaluate("i => i.decode()")
        page.locator("#program summary").click()
        assert f"{url}v1/stylize" in page.locator("#code").inner_text()
        assert far(first, pixels(server.stylize(photo_bytes(800, (32, 32)),
                                                {"styles": ["ink"]}).content)) < 1e-3  # fmt: skip
        page.get_by_text("API", exact=True).click()
        page.get_by_text("/v1/stylize").first.wait_for()
        page.get_by_text("Page", exact=True).click()
        finished(page)


def test_a_fifth_style_is_refused(visit: Visit, server: Server, tmp_path: Path) -> None:
    for seed, name in enumerate(("zebra", "zinc"), start=40):
        register(server.home, name, seed, tmp_path / name)
    wait_until(lambda: len(server.get("/v1/styles").json()["styles"]) >= 5, 30)
    page = visit()
    names = ["ink", "oil", "sepia", "zebra"]
    four = styled(page, *names)
    card(page, "zinc").click()
    assert page.locator("#status").inner_text() == (
        "A mix has at most 4 styles; take one out first."
    )
    assert page.locator('.card[aria-pressed="true"]').count() == 4
    card(page, "ink").click()
    card(page, "zinc").click()
    assert far(shown(page), four) > 0.02


def test_a_text_edit_is_chosen(visit: Visit, server: Server) -> None:
    base = load_base(server.home / "bases" / "tiny")
    noise = torch.Generator().manual_seed(0)
    direction = torch.randn(base.config.z_channels, generator=noise)
    edit = TextEdit("a face", "a smile", direction, base.fingerprint, {})
    save_text_edit(server.home / "text-edits" / "smile", edit)
    page = visit()
    plain = styled(page, "ink")
    page.locator("#mix-text_edit").select_option("smile")
    smiling = shown(page)
    assert far(smiling, plain) > 0.01
    direct = server.stylize(photo_bytes(800, (32, 32)), {"styles": ["ink"], "text_edit": "smile"})
    assert far(smiling, pixels(direct.content)) < 1e-3


@pytest.mark.skipif(not reads_kind("HEIC"), reason="the extra heif is not installed")
def test_a_photo_that_browsers_do_not_show(visit: Visit, server: Server) -> None:
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture(77, (48, 36))).save(buffer)
    page = visit()
    card(page, "ink").click()
    upload(page, buffer.getvalue(), "IMG_1.HEIC")
    finished(page)
    direct = server.stylize(buffer.getvalue(), {"styles": ["ink"]})
    assert far(shown(page), pixels(direct.content)) < 1e-3
    assert page.locator("#sizes").inner_text().split(" · ")[0].split()[1::2] == ["48", "36"]
    assert page.locator("#before").is_hidden()

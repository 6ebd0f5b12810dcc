"""The page in a real Chromium: photo, styles, mix, mask, code; on desktops and a phone."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from osasis.bundles.provenance import read_provenance
from tests.serving.browser import (
    PHONE,
    WIDE,
    card,
    far,
    finished,
    idle,
    put,
    shown,
    styled,
    upload,
    violations,
)
from tests.serving.conftest import DESKTOP, ROOT, Server, Visit, photo_bytes, pixels, wait_until

pytestmark = pytest.mark.slow
LEVELS = "all => all.map(e => Number(e.value))"


@pytest.mark.ci
def test_a_newcomer_sees_a_result_and_moves_a_slider(visit: Visit, server: Server) -> None:
    page = visit()
    assert violations(page) == []
    page.locator("#samples button").first.click()  # the first style is chosen with it
    finished(page)
    first = shown(page)
    assert first.shape == (64, 64, 3) and "ink:1" in page.locator("#status").inner_text()
    assert page.locator("#sizes").inner_text().split(" · ")[0].split()[1::2] == ["64", "64"]
    sample = server.get("/page/samples/portrait-01.png").content
    direct = server.stylize(sample, {"styles": ["ink"]})
    assert far(first, pixels(direct.content)) < 1e-3
    # Sliders start at what the style was trained with.
    trained = server.get("/v1/styles/ink").json()["mix"]
    page.locator("#expert summary").click()
    assert float(page.locator("#mix-structure").input_value()) == trained["structure"]
    assert page.locator(".level").evaluate_all(LEVELS) == trained["level_weights"] == [1, 0, 0]
    put(page, "mix-strength", 0.2)
    weak = shown(page)
    assert far(first, weak) > 0.02
    assert (
        page.locator(".control", has=page.locator("#mix-strength"))
        .get_by_role("button", name="Reset Strength")
        .is_visible()
    )
    page.get_by_role("button", name="Reset Strength").click()
    assert far(shown(page), first) < 1e-3
    # After many fast moves, the last value is shown.
    for value in (0.4, 0.9, 1.5, 0.2):
        put(page, "mix-strength", value)
    wait_until(lambda: far(shown(page), weak) < 1e-3, 20)
    assert violations(page) == []


def test_levels_that_are_touched_change_nothing(visit: Visit) -> None:
    page = visit()
    first = styled(page, "ink")
    page.locator("#expert summary").click()
    weights = page.locator(".level").evaluate_all(LEVELS)
    page.locator(".level").first.dispatch_event("input")
    assert far(shown(page), first) < 1e-3
    assert page.evaluate("location.hash").endswith("level_weights=1,0,0") and weights == [1, 0, 0]
    # A cutoff takes the place of the levels; both together are refused.
    put(page, "mix-content_cutoff", 0)
    idle(page)
    assert "content_cutoff=8" in page.url and "level_weights" not in page.url
    assert page.locator(".level").evaluate_all(LEVELS) == [1, 1, 1]
    assert far(shown(page), first) > 0.01
    page.locator("#mix-content_cutoff").press("Delete")  # the reset of the keyboard
    assert far(shown(page), first) < 1e-3


def test_several_styles_and_their_weights(visit: Visit) -> None:
    page = visit()
    ink = styled(page, "ink")
    assert page.locator("#chosen").is_hidden()
    card(page, "oil").click()
    both = shown(page)
    card(page, "sepia").click()
    three = shown(page)
    assert page.locator(".share").count() == 3
    assert page.locator(".share output").all_inner_texts() == ["33 %"] * 3
    assert min(far(both, ink), far(three, both)) > 0.02
    put(page, "weight-sepia", 0)
    assert far(shown(page), both) < 1e-3
    page.get_by_role("button", name="Take out sepia").click()
    put(page, "weight-oil", 0)
    assert far(shown(page), ink) < 1e-3
    card(page, "ink").click()  # takes it out
    idle(page)
    pressed = page.locator('.card[aria-pressed="true"]')
    assert pressed.evaluate_all("all => all.map(e => e.dataset.style)") == ["oil"]


def test_the_gallery_is_searched(visit: Visit) -> None:
    page = visit()
    page.locator("#search").fill("paint")
    page.wait_for_function("() => document.querySelectorAll('.card').length === 1")
    assert page.locator(".card").inner_text() == "oil"
    for name in ("example", "corner"):
        image = page.locator(f".card img.{name}")
        image.evaluate("i => i.decode()")
        assert image.evaluate("i => i.naturalWidth") == 32
    page.locator("#search").fill("nothing of the kind")
    page.locator(".empty").wait_for()
    page.locator("#search").fill("")
    page.wait_for_function("() => document.querySelectorAll('.card').length >= 3")


def masking_a_disc(page: Any, box: tuple[int, int, int, int]) -> np.ndarray:
    """Open the mask brush on a dark photo with a bright disc; returns the photo, in [0, 1]."""
    photo = Image.new("RGB", (96, 96), (40, 60, 90))
    ImageDraw.Draw(photo).ellipse(box, fill=(230, 120, 60))
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    styled(page, "oil")
    upload(page, buffer.getvalue(), "disc.png")
    page.locator("#masking summary").click()
    return np.asarray(photo, float) / 255


def test_a_mask_is_found_and_corrected(visit: Visit) -> None:
    """A bright disc in the middle of a dark photo is its subject."""
    page = visit()
    before = masking_a_disc(page, (28, 28, 68, 68))
    page.get_by_role("button", name="Background").click()
    page.wait_for_function("() => document.getElementById('code').textContent.includes('painted')")
    part = shown(page)
    assert far(part[38:58, 38:58], before[38:58, 38:58]) < 1e-6  # the photo itself
    assert far(part[:20], before[:20]) > 0.05
    # The brush takes the left of the mask away.
    page.locator("#erase").click()
    put(page, "brush", 120)
    box = page.locator("#mask").bounding_box()
    page.mouse.move(box["x"] + 4, box["y"] + 4)
    page.mouse.down()
    page.mouse.move(box["x"] + 4, box["y"] + box["height"] - 4, steps=12)
    page.mouse.up()
    erased = shown(page)
    assert far(erased[:, :8], before[:, :8]) < 1e-6
    assert far(erased[:, 80:], before[:, 80:]) > 0.05


def test_what_is_clicked_becomes_the_mask(visit: Visit) -> None:
    """A disc beside the middle, which *Subject* would not find."""
    page = visit()
    before = masking_a_disc(page, (4, 4, 36, 36))
    assert page.locator("#naming").is_hidden()  # this server has no CLIP
    page.locator("#pick").click()
    box = page.locator("#mask").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 20 / 96, box["y"] + box["height"] * 20 / 96)
    page.wait_for_function("() => document.getElementById('code').textContent.includes('painted')")
    part = shown(page)
    assert far(part[14:26, 14:26], before[14:26, 14:26]) > 0.02
    assert far(part[50:], before[50:]) < 1e-6  # the photo itself
    # The brush then corrects the mask.
    assert page.locator("#paint").get_attribute("aria-pressed") == "true"


def test_a_mask_is_painted(visit: Visit) -> None:
    page = visit()
    whole = styled(page, "oil")
    photo = pixels(photo_bytes(800, (32, 32)))
    page.locator("#masking summary").click()
    page.locator("#paint").click()
    put(page, "brush", 60)
    box = page.locator("#mask").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] - 2, steps=12)
    page.mouse.up()
    part = shown(page)
    assert far(part[:, 16:], photo[:, 16:]) < 0.01  # the photo itself
    assert far(part[:, 4:8], photo[:, 4:8]) > 0.05
    # The same by keyboard, on the right side.
    page.locator("#clear").click()
    assert far(shown(page), whole) < 1e-3
    page.locator("#paint").focus()
    page.keyboard.press("Enter")
    page.locator("#mask").focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    spot = shown(page)
    assert far(spot[:, :8], photo[:, :8]) < 0.01 and far(spot, photo) > 0.05
    # A mask belongs to its photo.
    upload(page, photo_bytes(805, (32, 32)), "ben.png")
    page.wait_for_function("() => document.getElementById('code').textContent.includes('ben')")
    idle(page)
    assert page.locator("#mask").is_hidden()
    assert far(shown(page)[:, :8], pixels(photo_bytes(805, (32, 32)))[:, :8]) > 0.05


def test_before_after_and_downloads(visit: Visit) -> None:
    page = visit()
    after = styled(page, "ink")
    box = page.locator("#compare").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50, steps=4)
    page.mouse.up()
    assert abs(float(page.locator("#wipe").input_value()) - 50) <= 1
    assert page.locator("#compare.wiped .tag.left").is_visible()
    clip = page.locator("#after").evaluate("e => getComputedStyle(e).clipPath")
    assert float(re.findall(r"([\d.]+)%", clip)[0]) == pytest.approx(50, abs=1)

    def saved(button: str) -> tuple[str, bytes]:
        if button != "download":
            page.locator("#downloads summary").click()
        with page.expect_download() as download:
            page.locator(f"#{button}").click()
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()

    name, data = saved("download")
    provenance = read_provenance(data)
    assert name == "anna-ink.png" and provenance is not None
    assert [s.reference for s in provenance.styles] == ["ink:1"]
    assert far(pixels(data), after) < 1e-3
    for button, end in (("save-jpeg", ".jpg"), ("save-webp", ".webp")):
        name, data = saved(button)
        other = read_provenance(data)
        assert name == "anna-ink" + end and other is not None and other.mix == provenance.mix
        assert float(np.abs(pixels(data) - after).mean()) < 0.1
    name, data = saved("save-both")
    both = pixels(data)
    assert name == "anna-ink-before-after.png" and both.shape == (32, 72, 3)
    assert far(both[:, :32], pixels(photo_bytes(800, (32, 32)))) < 1e-3
    assert far(both[:, 40:], after) < 1e-3
    assert page.locator("#save-mask").is_disabled()


def test_the_shown_code_gives_the_same_image(
    visit: Visit, keys: dict[str, str], tmp_path: Path
) -> None:
    page = visit()
    card(page, "ink").click()
    card(page, "oil").click()
    upload(page, photo_bytes(800, (96, 70)), "anna's photo.png")
    finished(page)
    page.locator("#masking summary").click()
    page.locator("#paint").click()
    box = page.locator("#mask").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    put(page, "mix-strength", 0.6)
    page.locator("#crop").click()
    page.locator("#box").focus()
    page.keyboard.press("ArrowLeft")
    wanted = shown(page)
    assert "detail=true" in page.url and "crop=" in page.url
    (tmp_path / "anna's photo.png").write_bytes(photo_bytes(800, (96, 70)))
    page.locator("#downloads summary").click()
    with page.expect_download() as download:
        page.locator("#save-mask").click()
    assert download.value.suggested_filename == "anna's photo-mask.png"
    download.value.save_as(tmp_path / download.value.suggested_filename)
    page.locator("#program summary").click()
    if shutil.which("curl"):
        curl = page.locator("#code").inner_text()
        environment = {**os.environ, "KEY": keys["alice"]}
        subprocess.run(["sh", "-c", curl], check=True, cwd=tmp_path, env=environment, timeout=60)
        assert far(pixels((tmp_path / "out.png").read_bytes()), wanted) < 1e-3
        (tmp_path / "out.png").unlink()
    page.locator("#as-python").click()
    python = page.locator("#code").inner_text().replace('key="..."', f'key="{keys["alice"]}"')
    assert keys["alice"] in python
    subprocess.run([sys.executable, "-c", python], check=True, cwd=tmp_path, timeout=120,
                   env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert far(pixels((tmp_path / "out.png").read_bytes()), wanted) < 1e-3


def test_the_page_works_by_keyboard(visit: Visit) -> None:
    page = visit()
    page.locator("#search").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.style") == "ink"
    page.keyboard.press("Space")
    page.locator("#hint").focus()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(
        [{"name": "a.png", "mimeType": "image/png", "buffer": photo_bytes(801, (32, 32))}]
    )
    finished(page)
    first = shown(page)
    page.locator("#mix-strength").focus()
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    assert far(shown(page), first) > 0.02
    page.keyboard.press("Backspace")
    assert far(shown(page), first) < 1e-3
    page.locator("#wipe").focus()
    page.keyboard.press("End")
    assert page.locator("#wipe").input_value() == "100"


def test_the_camera(visit: Visit) -> None:
    page = visit()
    card(page, "sepia").click()
    page.locator("#camera").click()
    page.locator("#snap").click()
    finished(page)
    height, width, _ = shown(page).shape
    assert page.locator("#sizes").inner_text().split()[1:4:2] == [str(width), str(height)]
    assert page.locator("#shoot").is_hidden()


@pytest.mark.parametrize("kind", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_errors_are_shown(visit: Visit, kind: dict[str, Any]) -> None:
    page = visit(kind, key=None)
    page.locator("#status.bad").wait_for()
    assert "API key is needed" in page.locator("#status").inner_text()
    assert page.locator("#key").is_visible()
    page = visit(kind)
    card(page, "ink").click()
    upload(page, photo_bytes(802)[:60])
    page.locator("#status.bad").wait_for()
    assert re.search("truncated|damaged", page.locator("#status").inner_text())
    # It is in sight at the sliders too.
    page.locator("#program summary").scroll_into_view_if_needed()
    box = page.locator("#status").bounding_box()
    assert 0 <= box["y"] < kind["viewport"]["height"] - box["height"]
    upload(page, photo_bytes(802))
    finished(page)
    idle(page)
    assert page.locator("#status.bad").count() == 0


@pytest.mark.parametrize(
    "kind",
    [DESKTOP, PHONE, WIDE, PHONE | {"color_scheme": "dark"}, WIDE | {"color_scheme": "dark"}],
    ids=["desktop", "phone", "wide", "phone-dark", "wide-dark"],
)
def test_the_page_fits_the_screen(visit: Visit, kind: dict[str, Any], tmp_path: Path) -> None:
    page = visit(kind)
    wide = "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.evaluate(wide)
    styled(page, "ink", "oil", size=(64, 40))
    page.screenshot(path=tmp_path / "page.png")
    assert Image.open(io.BytesIO((tmp_path / "page.png").read_bytes())).width >= 780
    for details in page.locator("details").all():
        details.evaluate("e => { e.open = true }")
    page.locator("#crop").click()
    page.locator("#past li").first.wait_for()
    assert not page.evaluate(wide)
    assert violations(page) == []
    page.locator("#downloads").evaluate("e => { e.open = false }")
    # Buttons are large enough to touch; the image stays visible while sliders scroll.
    for button in page.locator("button:visible:not(.small, .reset, .box)").all():
        assert button.bounding_box()["height"] >= 40
    page.locator("#mix-strength").scroll_into_view_if_needed()
    box = page.locator("#drop").bounding_box()
    assert box["y"] + box["height"] > 100 and box["y"] < kind["viewport"]["height"] - 100


def test_the_api_page(visit: Visit, server: Server) -> None:
    page = visit()
    page.goto(server.url + "/docs")
    page.get_by_text("/v1/stylize").first.click()
    page.get_by_text("application/json").first.wait_for()
    types = page.locator("details > summary > code").all_inner_texts()
    assert {"Mix", "StyleShare", "StylizeAnswer"} <= set(types)
    mix = page.locator("details", has=page.get_by_text("Mix", exact=True)).last
    assert "content_cutoff" in (mix.text_content() or "")
    assert violations(page) == []

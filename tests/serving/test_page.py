"""The page in a real Chromium, on a desktop and on a phone."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from osasis.bundles.provenance import read_provenance
from tests.serving.conftest import ROOT, Server, photo_bytes, pixels, wait_until

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True,
         "device_scale_factor": 2}  # fmt: skip
# The result image of the page as a data URL.
RESULT = """async () => {
  const image = document.getElementById("after"), canvas = document.createElement("canvas");
  await image.decode();
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL("image/png");
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine")
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking",
               "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # fmt: skip
    with playwright.sync_playwright() as p:
        found = p.chromium.launch(executable_path=CHROMIUM, args=options)
        yield found
        found.close()


@pytest.fixture
def visit(browser: Any, server: Server, keys: dict[str, str]) -> Iterator[Callable[..., Any]]:
    """Opens the page with alice's key. Checks at the end that no request went to another host and
    that no script raised an error."""
    contexts, outside, errors = [], [], []

    def note(request: Any) -> None:
        if not request.url.startswith((server.url, "blob:" + server.url, "data:")):
            outside.append(request.url)

    def opened(kind: dict[str, Any] = DESKTOP, key: str | None = keys["alice"]) -> Any:
        context = browser.new_context(**kind)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("request", note)
        # From here on, a chooser that opens is reported; a first listener during the test is late.
        page.on("filechooser", lambda chooser: None)
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.goto(server.url)
        if key is not None:
            page.locator("#key:visible").fill(key)  # the field opens when a key is needed
            page.locator("#key").press("Tab")
            page.locator(".card").first.wait_for()
            page.locator("#access summary").click()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not outside and not errors


def upload(page: Any, data: bytes) -> None:
    page.locator("#file").set_input_files(
        {"name": "anna.png", "mimeType": "image/png", "buffer": data}
    )


def card(page: Any, style: str) -> Any:
    return page.locator(f'.card[data-style="{style}"]')


def idle(page: Any) -> None:
    """Wait until the result of the last change is shown."""
    page.wait_for_function("() => !document.body.classList.contains('busy')")


def shown(page: Any) -> np.ndarray:
    """The result's pixels, in [0, 1]."""
    idle(page)
    return pixels(base64.b64decode(page.evaluate(RESULT).partition(",")[2]))


def styled(page: Any, *styles: str, photo: int = 800) -> np.ndarray:
    upload(page, photo_bytes(photo, (32, 32)))
    for style in styles:
        card(page, style).click()
    page.wait_for_function("() => !document.getElementById('download').disabled")
    return shown(page)


def far(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


def put(page: Any, slider: str, value: float) -> None:
    """Move a slider."""
    page.locator(f"#{slider}").evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )


@pytest.mark.ci
def test_a_slider_changes_the_image(visit: Any, server: Server) -> None:
    page = visit()
    first = styled(page, "ink")
    assert "ink:1" in page.locator("#status").inner_text()
    direct = server.stylize(photo_bytes(800, (32, 32)), {"styles": ["ink"]})
    assert far(first, pixels(direct.content)) < 1e-3
    # A slider that is not moved shows the style's training setting.
    assert "as trained" in page.locator("#mix-structure ~ output, output").nth(1).inner_text()
    put(page, "mix-strength", 0.2)
    weak = shown(page)
    assert far(first, weak) > 0.02
    page.locator("#reset").click()
    assert far(shown(page), first) < 1e-3
    # After many fast moves, the last value is shown.
    for value in (0.4, 0.9, 1.5, 0.2):
        put(page, "mix-strength", value)
    wait_until(lambda: far(shown(page), weak) < 1e-3, 20)


def test_two_styles_and_the_cross_fader(visit: Any) -> None:
    page = visit()
    ink = styled(page, "ink")
    assert page.locator("#fade-row").is_hidden()
    card(page, "oil").click()
    both = shown(page)
    assert page.locator("#fade-a").inner_text() == "ink"
    assert page.locator("#fade-b").inner_text() == "oil"
    put(page, "fade", 0)
    nearly_ink = shown(page)
    put(page, "fade", 100)
    nearly_oil = shown(page)
    card(page, "ink").click()  # deselects it
    oil = shown(page)
    assert far(nearly_ink, ink) < 0.05 and far(nearly_oil, oil) < 0.05
    assert far(both, ink) > 0.05 and far(both, oil) > 0.05
    # A third style replaces the first.
    card(page, "sepia").click()
    card(page, "ink").click()
    pressed = page.locator('.card[aria-pressed="true"]')
    assert sorted(pressed.evaluate_all("all => all.map(e => e.dataset.style)")) == ["ink", "sepia"]


def test_the_gallery_is_searched(visit: Any) -> None:
    page = visit()
    page.locator("#search").fill("paint")
    page.wait_for_function("() => document.querySelectorAll('.card').length === 1")
    assert page.locator(".card").inner_text() == "oil"
    image = page.locator(".card img")
    image.evaluate("i => i.decode()")
    assert image.evaluate("i => i.naturalWidth") == 32
    page.locator("#search").fill("nothing of the kind")
    page.locator(".empty").wait_for()
    page.locator("#search").fill("")
    page.wait_for_function("() => document.querySelectorAll('.card').length >= 3")


def test_a_mask_is_painted(visit: Any) -> None:
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


def test_before_after_and_download(visit: Any) -> None:
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
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "stylized-ink.png"
    data = Path(download.value.path()).read_bytes()
    provenance = read_provenance(data)
    assert provenance is not None
    assert [s.reference for s in provenance.styles] == ["ink:1"]
    image = Image.open(io.BytesIO(data))
    assert far(np.asarray(image, dtype=np.float32) / 255, after) < 1e-3


def test_the_shown_code_gives_the_same_image(
    visit: Any, keys: dict[str, str], tmp_path: Path
) -> None:
    page = visit()
    styled(page, "ink", "oil")
    put(page, "mix-strength", 0.6)
    wanted = shown(page)
    Image.open(io.BytesIO(photo_bytes(800, (32, 32)))).save(tmp_path / "photo.jpg", "PNG")
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


def test_the_page_works_by_keyboard(visit: Any) -> None:
    page = visit()
    page.locator("#hint").focus()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": photo_bytes(801, (32, 32))}
    )
    page.locator("#search").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.style") == "ink"
    page.keyboard.press("Space")
    page.wait_for_function("() => !document.getElementById('download').disabled")
    first = shown(page)
    page.locator("#mix-strength").focus()
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    assert far(shown(page), first) > 0.02
    page.locator("#wipe").focus()
    page.keyboard.press("End")
    assert page.locator("#wipe").input_value() == "100"


def test_the_camera(visit: Any) -> None:
    page = visit()
    card(page, "sepia").click()
    page.locator("#camera").click()
    page.locator("#snap").click()
    page.wait_for_function("() => !document.getElementById('download').disabled")
    assert shown(page).shape == (32, 32, 3)
    assert page.locator("#shoot").is_hidden()


def test_errors_are_shown(visit: Any) -> None:
    page = visit(key=None)
    page.locator("#status.bad").wait_for()
    assert "API key is needed" in page.locator("#status").inner_text()
    assert page.locator("#key").is_visible()
    page = visit()
    card(page, "ink").click()
    upload(page, photo_bytes(802)[:60])
    page.locator("#status.bad").wait_for()
    assert re.search("truncated|damaged", page.locator("#status").inner_text())
    upload(page, photo_bytes(802))
    page.wait_for_function("() => !document.getElementById('download').disabled")
    assert page.locator("#status.bad").count() == 0


@pytest.mark.parametrize("kind", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_fits_the_screen(visit: Any, kind: dict[str, Any], tmp_path: Path) -> None:
    page = visit(kind)
    wide = "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.evaluate(wide)
    styled(page, "ink", "oil")
    for details in page.locator("details").all():
        details.evaluate("e => { e.open = true }")
    assert not page.evaluate(wide)
    # Buttons are large enough to touch; the image stays visible while sliders scroll.
    for button in page.locator("button:visible:not(.small)").all():
        assert button.bounding_box()["height"] >= 40
    page.locator("#mix-strength").scroll_into_view_if_needed()
    box = page.locator("#drop").bounding_box()
    assert box["y"] + box["height"] > 100 and box["y"] < kind["viewport"]["height"] - 100
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_the_api_page(visit: Any, server: Server) -> None:
    page = visit()
    page.goto(server.url + "/docs")
    page.get_by_text("/v1/stylize").first.click()
    page.get_by_text("application/json").first.wait_for()
    types = page.locator("details > summary > code").all_inner_texts()
    assert {"Mix", "StyleShare", "StylizeAnswer"} <= set(types)
    mix = page.locator("details", has=page.get_by_text("Mix", exact=True)).last
    assert "content_cutoff" in (mix.text_content() or "")

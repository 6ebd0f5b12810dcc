"""What users do on the page in a browser, and what they see."""

from __future__ import annotations

import base64
import contextlib
import http.server
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.serving.conftest import Server, photo_bytes, pixels

WIDE = {"viewport": {"width": 2560, "height": 1440}}
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


@contextlib.contextmanager
def proxied(server: Server, prefix: str) -> Iterator[str]:
    """A reverse proxy that serves the server below a prefix, which it strips. Yields the URL."""

    class Proxy(http.server.BaseHTTPRequestHandler):
        def _forward(self) -> None:
            if not self.path.startswith(prefix + "/"):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            sent = {k: v for k, v in self.headers.items() if k.lower() != "host"}
            answer = httpx.request(self.command, server.url + self.path[len(prefix) :],
                                   content=body, headers=sent, timeout=60)  # fmt: skip
            self.send_response(answer.status_code)
            for name in ("Content-Type", "Content-Security-Policy"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = _forward  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}{prefix}/"
    finally:
        proxy.shutdown()


def upload(page: Any, data: bytes, name: str = "anna.png") -> None:
    page.locator("#file").set_input_files({"name": name, "mimeType": "image/png", "buffer": data})


def card(page: Any, style: str) -> Any:
    return page.locator(f'.card[data-style="{style}"]')


def idle(page: Any) -> None:
    """Wait until the result of the last change is shown."""
    page.wait_for_function("() => !document.body.classList.contains('busy')")


def finished(page: Any) -> None:
    """Wait until a first result is shown."""
    page.wait_for_function("() => document.body.classList.contains('done')")


def shown(page: Any) -> np.ndarray:
    """The result's pixels, in [0, 1]."""
    idle(page)
    return pixels(base64.b64decode(page.evaluate(RESULT).partition(",")[2]))


def styled(page: Any, *styles: str, photo: int = 800, size: tuple[int, int] = (32, 32)) -> Any:
    """Choose styles, then a photo. Returns the result's pixels."""
    for style in styles:
        card(page, style).click()
    upload(page, photo_bytes(photo, size))
    finished(page)
    return shown(page)


def far(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


def put(page: Any, slider: str, value: float) -> None:
    """Move a slider."""
    page.locator(f"#{slider}").evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )


def violations(page: Any) -> list[str]:
    """Accessibility problems that axe-core finds on the page as it is."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")
    found = axe.Axe().run(page).response
    assert found["passes"]
    return [f"{v['impact']}: {v['id']} {[n['target'] for n in v['nodes']]}"
            for v in found["violations"]]  # fmt: skip

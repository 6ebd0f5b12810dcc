"""A tiny base with random styles, and real servers on it, each in its own process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from factory.core.home import Home
from factory.core.ports import free_port
from factory.methods.osasis.content_banks import bank_name, shard_name
from factory.registry import StyleVersion
from osasis.bundles.base import load_base
from osasis.bundles.predictor import save_predictor
from osasis.contents import BANK_JSON
from osasis.settings import make_settings
from osasis.storage import save_tensors, write_json
from serving.auth import new_key
from tests.factory.conftest import (
    home,
    imported,
    local_ray,
    ray_processes,
    register_random_style,
    sources,
)
from tests.tiny import FEW, build_bank, picture, random_predictor

__all__ = ["FEW", "home", "imported", "local_ray", "sources"]
ROOT = Path(__file__).resolve().parents[2]
STYLES = {"ink": 21, "oil": 61, "sepia": 81}
TIMEOUT = 180.0
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
Visit = Callable[..., Any]
QUEUE = 12


def register(path: Path, style: str, seed: int, folder: Path) -> StyleVersion:
    """Register a version of a style with random weights, as champion."""
    tags = {"tags": "dark,paint" if style == "oil" else "line", "licence": "CC0"}
    return register_random_style(Home(path), style, seed, folder, tags=tags)


@pytest.fixture(scope="session")
def shop_home(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three styles. Tests may add styles whose names begin with ``z``."""
    path = tmp_path_factory.mktemp("shop-home")
    shutil.copytree(home / "bases", path / "bases")
    for style, seed in STYLES.items():
        register(path, style, seed, tmp_path_factory.mktemp(style))
    add_predictor(path)
    return path


def add_predictor(path: Path) -> None:
    """Give the home's base a style predictor with random weights, and the bank that it needs."""
    folder = Home(path).base_folder(None)
    base, settings = load_base(folder), make_settings("instant")
    save_predictor(folder, random_predictor(base), base.fingerprint, {})
    name = bank_name(base, settings)
    assert name is not None
    bank = Home(path).banks / name
    contents = build_bank(base, settings).contents
    save_tensors(bank / shard_name(0), contents.tensors())
    write_json(bank / BANK_JSON, {"contents": len(contents)})


@dataclass
class Server:
    """A running `style-factory serve`."""

    url: str
    process: subprocess.Popen[str]
    home: Path
    log: Path
    headers: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=TIMEOUT, **self._with(options))

    def post(self, path: str, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, timeout=TIMEOUT, **self._with(options))

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return httpx.request(method, self.url + path, timeout=TIMEOUT, **self._with(options))

    def _with(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "headers": {**self.headers, **(options.get("headers") or {})}}

    def metric(self, name: str) -> float:
        """A sample of /metrics; 0 if missing."""
        for line in self.get("/metrics").text.splitlines():
            if line.startswith(f"style_factory_{name} "):
                return float(line.split()[1])
        return 0.0

    def replicas(self, deployment: str) -> list[int]:
        """Process ids of this server's replicas of a deployment."""
        return ray_processes(f"ServeReplica:style-factory:{deployment}", self.process.pid)

    def stylize(
        self,
        photo: bytes,
        mix: dict[str, Any],
        *,
        fields: dict[str, str] | None = None,
        **options: Any,
    ) -> httpx.Response:
        """Send one photo as a form. fields: further fields of the form."""
        files = {"image": ("photo.png", photo, "image/png")}
        data = {"mix": json.dumps(mix), **(fields or {})}
        return self.post("/v1/stylize", files=files, data=data, **options)


@contextlib.contextmanager
def serving(path: Path, folder: Path, *options: str) -> Iterator[Server]:
    """Run the command on a free port until the block ends."""
    port = free_port()
    err = (folder / "err.txt").open("w")
    argv = [sys.executable, "-m", "factory.cli", "serve", "--home", str(path), "--json"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*argv, "--port", str(port), *options],
        stdout=subprocess.PIPE, stderr=err, text=True, env=environment, cwd=folder,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        # The command prints one line once the server is ready.
        line = process.stdout.readline()
        try:
            facts = json.loads(line)
        except json.JSONDecodeError:
            told = line + process.stdout.read() + (folder / "err.txt").read_text()[-3000:]
            pytest.fail(f"the server did not start: {told}")
        yield Server(facts["url"], process, path, path / "logs" / "serve.jsonl")
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=90)
            except subprocess.TimeoutExpired:
                process.kill()
        err.close()


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A key file: ``alice`` has no effective rate limit, ``bob`` four requests per minute."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    return {
        "file": path,
        "path": str(path),
        "alice": new_key(path, "alice", 1_000_000),
        "bob": new_key(path, "bob", 4),
    }


@pytest.fixture(scope="session")
def hook_port() -> int:
    """The port at which the server's jobs may call webhooks, below /hooks."""
    return free_port()


@pytest.fixture(scope="session")
def server(
    shop_home: Path,
    keys: dict[str, str],
    hook_port: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """A server for all tests that do not change it; requests carry alice's key."""
    folder = tmp_path_factory.mktemp("server")
    options = ("--set", "limits.seconds=150", "--set", f"queue={QUEUE}", "--keys", keys["path"],
               "--set", 'cors=["https://a.example"]',
               "--set", f'webhooks=["http://127.0.0.1:{hook_port}/hooks"]')  # fmt: skip
    with serving(shop_home, folder, *options) as running:
        running.headers["Authorization"] = f"Bearer {keys['alice']}"
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine")
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking",
               "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # fmt: skip
    with playwright.sync_playwright() as p:
        found = p.chromium.launch(executable_path=CHROMIUM, args=options)
        yield found
        found.close()


@pytest.fixture
def visit(browser: Any, server: Server, keys: dict[str, str]) -> Iterator[Visit]:
    """Opens the page with alice's key, each time as a new visitor. Checks at the end that no
    request went to another host and that no script raised an error."""
    contexts, outside, errors = [], [], []

    def note(request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "blob:http://127.0.0.1:", "data:")):
            outside.append(request.url)

    def opened(
        kind: dict[str, Any] = DESKTOP, key: str | None = keys["alice"], url: str = server.url
    ) -> Any:
        context = browser.new_context(**kind)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", note)
        # From here on, a chooser that opens is reported; a first listener during the test is late.
        page.on("filechooser", lambda chooser: None)
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.goto(url)
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


def photo_bytes(seed: int = 500, size: tuple[int, int] = (40, 48), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture(seed, size).save(buffer, kind)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    """An encoded image as (H, W, 3) in [0, 1]."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float32) / 255


def wait_until(condition: Callable[[], Any], seconds: float = TIMEOUT) -> Any:
    """Poll until ``condition`` returns a true value, and return it."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"no true value within {seconds:g} s"
        time.sleep(0.2)
    return value

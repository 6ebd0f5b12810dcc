"""A complete training run on Ray."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from factory.core.claims import Claims
from factory.core.home import Home
from factory.methods import find_method
from factory.registry import Registry
from factory.training.fingerprint import fingerprint
from factory.training.run import train
from factory.training.staged_images import StagedImages
from osasis.bundles.base import read_base_info
from osasis.errors import UserError
from osasis.images.decoding import png_bytes
from osasis.settings import make_settings
from osasis.storage import DiskFullError, write_json
from tests.conftest import ROOT
from tests.tiny import FEW, SIZE, picture

# Requests with which a run lists the registered styles.
LISTING = 3


class StallingServer(ThreadingHTTPServer):
    """An empty MLflow server that answers ``LISTING`` requests, and no later one."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), StallingHandler)
        self.requests, self.stalled, self.closed = 0, threading.Event(), threading.Event()


class StallingHandler(BaseHTTPRequestHandler):
    server: StallingServer

    def do_GET(self) -> None:
        self.server.requests += 1
        if self.server.requests > LISTING:
            self.server.stalled.set()
            self.server.closed.wait()
            return
        is_experiment = "experiments" in self.path
        body = b'{"experiment": {"experiment_id": "1"}}' if is_experiment else b"{}"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def stalling() -> Iterator[StallingServer]:
    with StallingServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.closed.set()
        server.shutdown()


def test_sigterm_ends_the_wait_for_an_mlflow_server(
    fresh_home: Callable[[], Path], tmp_path: Path, stalling: StallingServer
) -> None:
    picture(100, (SIZE, SIZE)).save(tmp_path / "oil.png")
    uri = f"http://127.0.0.1:{stalling.server_port}"
    command = ["train", tmp_path / "oil.png", "--home", fresh_home(), "--progress", "none"]
    run = subprocess.Popen(
        [sys.executable, "-m", "factory.cli", *map(str, command)],
        stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri},
    )  # fmt: skip
    try:
        assert stalling.stalled.wait(120)
        # Ray, which may be starting beside the wait, is up after this.
        time.sleep(3)
        started = time.monotonic()
        run.send_signal(signal.SIGTERM)
        _, errors = run.communicate(timeout=60)
    finally:
        run.kill()
    # MLflow's own attempt lasts 10 s.
    assert time.monotonic() - started < 5
    assert (run.returncode, errors) == (
        130,
        "error: stopped; to continue, run the same command again\n",
    )


@pytest.mark.slow
@pytest.mark.ci
def test_training_uses_the_checked_bytes_if_the_file_changes(
    fresh_home: Callable[[], Path], local_ray: None, tmp_path: Path
) -> None:
    home, image = Home(fresh_home()), tmp_path / "oil.png"
    picture(100, (SIZE, SIZE)).save(image)
    checked = image.read_bytes()

    def change_the_file(line: str) -> None:
        """Called with the first line that the run reports, between planning and training."""
        picture(101, (SIZE, SIZE)).save(image)

    result = train(image, home=home, preset="default", overrides=FEW, report=change_the_file)
    assert image.read_bytes() != checked
    assert [s.state for s in result.styles] == ["registered"]
    version = Registry(home).resolve("oil")
    # The stored image and the fingerprint are those of the checked bytes.
    assert (version.folder() / "style.png").read_bytes() == png_bytes(picture(100, (SIZE, SIZE)))
    base = read_base_info(home.bases / "tiny")["fingerprint"]
    settings = find_method("osasis").relevant(make_settings("default", **FEW).to_dict())
    assert version.fingerprint == fingerprint(checked, None, base, settings)
    assert not (result.folder / "images").exists()
    (bank,) = json.loads((result.folder / "result.json").read_text())["content_banks"]
    assert set(bank) == {"contents", "build_seconds"} and bank["contents"] > 0


@pytest.mark.slow
def test_a_style_that_another_job_takes_over_is_waited_for_and_trained_once(
    fresh_home: Callable[[], Path], local_ray: None, tmp_path: Path
) -> None:
    home, lines = Home(fresh_home()), list[str]()
    picture(100, (SIZE, SIZE)).save(tmp_path / "oil.png")
    other = Claims(home.claims, "other")

    def report(line: str) -> None:
        first = not any("training on" in told for told in lines)
        lines.append(line)
        if "training on" in line and first:
            (claim,) = home.claims.glob("oil-*.claim")
            write_json(claim, asdict(other.holder))
        elif "waiting for other" in line:
            other.close()

    result = train(tmp_path / "oil.png", home=home, preset="default", overrides=FEW, report=report)
    assert any(line.startswith("waiting for other to train oil; ") for line in lines)
    assert [(s.state, s.attempts) for s in result.styles] == [("registered", 1)]
    assert [v.version for v in Registry(home).all_versions()["oil"]] == [1]
    assert not list(home.claims.iterdir())


@pytest.mark.slow
@pytest.mark.ci
def test_a_full_disk_ends_a_run_at_once_and_a_finished_run_needs_no_room(
    fresh_home: Callable[[], Path], local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, image, lines = Home(fresh_home()), tmp_path / "oil.png", list[str]()
    picture(100, (SIZE, SIZE)).save(image)

    def run() -> list[str]:
        result = train(image, home=home, preset="default", overrides=FEW, report=lines.append)
        return [s.state for s in result.styles]

    def write_bytes(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", write_bytes)
        with pytest.raises(DiskFullError, match=f"^the disk of {home.jobs}/train-.* is full"):
            run()
    assert run() == ["registered"]
    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", write_bytes)
        assert run() == ["skipped"]
    assert lines[-1].startswith("no gallery is written: the disk of ")


def test_staged_images_read_a_location_once(tmp_path: Path) -> None:
    images, file = StagedImages(tmp_path / "images"), tmp_path / "oil.png"
    file.write_bytes(b"first")
    assert images.read(str(file)) == b"first"
    file.write_bytes(b"second")
    assert images.read(str(file)) == images.path(str(file)).read_bytes() == b"first"
    with pytest.raises(UserError, match="no such file"):
        images.read(str(tmp_path / "ink.png"))
    images.delete()
    assert not (tmp_path / "images").exists()

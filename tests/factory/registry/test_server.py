"""The registry on a real `mlflow server` with sqlite and proxied artifacts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from factory.core.home import HOME_VARIABLE, Home
from factory.core.ports import free_port
from factory.registry import CANDIDATE, CHAMPION, Registry, StyleVersion
from osasis.bundles.base import read_base_info
from tests.conftest import ROOT
from tests.factory.conftest import cli
from tests.tiny import picture, write_style

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server's address, and the folder where it keeps artifacts."""
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
                *("--host", "127.0.0.1", "--port", str(port)),
                *("--backend-store-uri", f"sqlite:///{folder / 'server.db'}"),
                *("--artifacts-destination", str(folder / "artifacts")),
            ],
            cwd=folder,
            env=clean,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (folder / "log.txt").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.3)
        yield address, folder / "artifacts"
    finally:
        # The process group includes its workers; a busy worker takes minutes to stop by itself.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


@pytest.fixture
def served(
    fresh_home: Callable[[], Path], server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> Home:
    """A home whose registry is the server."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server[0])
    return Home(fresh_home())


def put(home: Home, style: str, seed: int, alias: str = CHAMPION) -> StyleVersion:
    folder = home.path / f"made-{style}-{seed}"
    write_style(folder / "style", home.bases / "tiny", style, seed)
    (folder / "previews").mkdir(exist_ok=True)
    picture(seed).save(folder / "previews" / "00.png")
    return Registry(home).register(
        style,
        folder / "style",
        fingerprint=f"f{seed}",
        base=read_base_info(home.bases / "tiny")["fingerprint"],
        params={"seed": seed},
        history=[{"total": 1.0 / i} for i in range(1, 1201)],  # more than a request takes
        metrics={"lpips": 0.1 * seed},
        tags={"base_name": "tiny", "tags": "x"},
        previews=folder / "previews",
        alias=alias,
    )


LOADING = """
import sys
import mlflow
from PIL import Image
model = mlflow.pyfunc.load_model("models:/oil@champion")
(image,) = model.predict([Image.open(sys.argv[1])])
image.save(sys.argv[2])
"""


def test_styles_live_on_a_server(
    served: Home, server: tuple[str, Path], fresh_home: Callable[[], Path], tmp_path: Path
) -> None:
    first, second = put(served, "oil", 1), put(served, "oil", 2, CANDIDATE)
    assert (first.version, second.version) == (1, 2)
    assert not (served.path / "mlflow.db").exists()
    # Artifacts are transferred through the server.
    assert first.source.startswith("mlflow-artifacts:/")
    listed = cli("styles", "list", "--all", "--home", served.path, "--json").document["styles"]
    assert [(s["id"], s["version"], s["aliases"]) for s in listed] == [
        ("oil", 2, ["candidate"]),
        ("oil", 1, ["champion"]),
    ]
    ran = cli("styles", "promote", "oil", "--home", served.path, "--json")
    assert (ran.code, ran.document["version"]) == (0, 2)

    # Another machine has another home, which downloads artifacts once.
    elsewhere = Home(fresh_home())
    registry = Registry(elsewhere)
    version = registry.resolve("oil@champion")
    assert version.version == 2
    made = served.path / "made-oil-2"
    for name in ("style.safetensors", "style.json", "style.png", "MLmodel"):
        assert (version.folder() / name).read_bytes() == (made / "style" / name).read_bytes()
    assert version.folder().is_relative_to(elsewhere.cache)
    (preview,) = version.previews()
    assert preview.read_bytes() == (made / "previews" / "00.png").read_bytes()
    before = (version.folder() / "style.safetensors").stat().st_mtime_ns
    assert (version.folder() / "style.safetensors").stat().st_mtime_ns == before
    curve = registry.client.get_metric_history(version.run_id, "total")
    assert [m.value for m in curve] == [1.0 / i for i in range(1, 1201)]

    # A plain MLflow program loads the style with the base from the home at STYLE_FACTORY_HOME.
    picture(5, (40, 48)).save(tmp_path / "photo.png")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), HOME_VARIABLE: str(elsewhere.path)}
    environment["OMP_NUM_THREADS"] = "1"  # sums of several threads differ in the last bit
    command = [sys.executable, "-c", LOADING, tmp_path / "photo.png", tmp_path / "styled.png"]
    subprocess.run([str(c) for c in command], env=environment, check=True, timeout=200)
    with Image.open(tmp_path / "styled.png") as styled:
        assert styled.size == (32, 32)
        through_mlflow = styled.tobytes()
    from factory.registry.pyfunc import StylePredictor

    torch.set_num_threads(1)
    (own,) = StylePredictor(made / "style").predict([Image.open(tmp_path / "photo.png")])
    assert own.tobytes() == through_mlflow

    # Deleting a version deletes its files on the server.
    stored = server[1] / "".join(first.source.partition(":/")[2:])
    assert (stored / "style.safetensors").is_file()
    assert cli("styles", "delete", "oil:1", "--home", served.path).code == 0
    assert not (stored / "style.safetensors").exists()
    assert [v.version for v in registry.versions("oil")] == [2]
    assert cli("styles", "delete", "oil", "--home", served.path).code == 0
    assert registry.styles() == []


REGISTERING = """
import sys
from pathlib import Path
from factory.core.home import Home
from factory.registry import Registry
version = Registry(Home(Path(sys.argv[1]))).register("ink", Path(sys.argv[2]), fingerprint="same",
    base="b", params={}, history=[], metrics={}, tags={})
print(version.version)
"""


def test_concurrent_registrations_of_machines_make_one_version(
    served: Home, fresh_home: Callable[[], Path]
) -> None:
    """Machines share no lock; the server's order of versions decides."""
    running = []
    for _ in range(3):
        own = fresh_home()
        write_style(own / "made", own / "bases" / "tiny", "ink")
        command = [sys.executable, "-c", REGISTERING, str(own), str(own / "made")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        running.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        )
    printed = {p.communicate(timeout=300)[0].strip() for p in running}
    (kept,) = Registry(served).versions("ink")
    assert printed == {str(kept.version)}
    assert kept.aliases == (CHAMPION,)

"""A cluster whose nodes share nothing but an S3 store and an MLflow server on PostgreSQL."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from factory.core.home import Home
from factory.core.local_cache import CACHE_VARIABLE
from factory.core.ports import free_port
from factory.core.stores import open_store
from factory.registry import Registry
from factory.training.style_worker import StyleTask, StyleWorker
from osasis.bundles.style import load_style
from osasis.images.tensors import image_to_tensor
from osasis.storage import save_tensors
from tests.conftest import ROOT
from tests.factory.conftest import import_tiny, sets
from tests.s3_server import BUCKET, SECRET, S3Server, s3_server
from tests.services import mlflow_server, postgres
from tests.tiny import SIZE, picture

pytestmark = pytest.mark.slow

STYLES, PHOTOS, ITERATIONS, EVERY = 6, 200, 40, 5
HOME, OUTPUT = f"s3://{BUCKET}/shared/home", f"s3://{BUCKET}/shared/out"
PATIENCE = 900

THREE_NODES = """
import json, os, sys, threading, time
from ray.cluster_utils import Cluster

place = sys.argv[1]
memory = {"object_store_memory": 100_000_000}
# Each node has a cache of its own, in which another node finds nothing.
caches = [{"STYLE_FACTORY_CACHE": os.path.join(place, f"node-{i}")} for i in range(3)]
cluster = Cluster(initialize_head=True, head_node_args={
    "num_cpus": 1, "include_dashboard": False, "env_vars": caches[0], **memory})
nodes = [cluster.add_node(num_cpus=1, env_vars=c, **memory) for c in caches[1:]]
cluster.wait_for_nodes()
ids = [node.node_id for node in nodes]
print(json.dumps({"address": cluster.address, "nodes": ids}), flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes[int(line)], allow_graceful=False)
    print("removed", flush=True)
cluster.shutdown()
"""


@dataclass
class Site:
    """A store, a registry and a cluster. environment: of commands on the driver's machine. nodes:
    those besides the head."""

    environment: dict[str, str]
    cluster: subprocess.Popen[str]
    nodes: list[str]

    def command(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "factory.cli", *map(str, arguments), "--home", HOME],
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True, **options,
        )  # fmt: skip

    def run(self, *arguments: str | Path) -> dict[str, Any]:
        """Run a command to its end; returns its JSON document."""
        out, err = self.command(*arguments, "--json").communicate(timeout=PATIENCE)
        assert out, err[-3000:]
        document: dict[str, Any] = json.loads(out)
        return document

    def drain(self, node: int) -> None:
        """Announce the end of a node, as infra/kuberay does when its pod gets SIGTERM."""
        command = ["drain-node", "--address", self.environment["RAY_ADDRESS"],
                   "--node-id", self.nodes[node], "--reason", "DRAIN_NODE_REASON_PREEMPTION",
                   "--reason-message", "spot", "--deadline-remaining-seconds", "120"]  # fmt: skip
        subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *command], check=True,
                       env=self.environment, timeout=60)  # fmt: skip

    def kill(self, node: int) -> None:
        assert self.cluster.stdin is not None and self.cluster.stdout is not None
        self.cluster.stdin.write(f"{node}\n")
        self.cluster.stdin.flush()
        assert self.cluster.stdout.readline() == "removed\n"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as server:
        yield server


@pytest.fixture(scope="module")
def site(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    place = tmp_path_factory.mktemp("site")
    with ExitStack() as stack:
        database = stack.enter_context(postgres(place / "postgres"))
        address = stack.enter_context(mlflow_server(place / "mlflow", database))
        environment = {
            **os.environ,
            **s3.environment,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "MLFLOW_TRACKING_URI": address,
            CACHE_VARIABLE: str(place / "driver"),
        }
        cluster = subprocess.Popen(
            [sys.executable, "-c", THREE_NODES, str(place)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=place,
        )  # fmt: skip
        try:
            assert cluster.stdout is not None
            told = json.loads(next(line for line in cluster.stdout if line.startswith("{")))
            environment["RAY_ADDRESS"] = told["address"]
            yield Site(environment, cluster, told["nodes"])
        finally:
            assert cluster.stdin is not None
            cluster.stdin.close()
            cluster.wait(60)


def test_a_store_carries_a_catalog_through_the_loss_of_a_node(
    s3: S3Server, site: Site, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", CACHE_VARIABLE):
        monkeypatch.setenv(name, site.environment[name])
    assert import_tiny(HOME, sources).code == 0  # type: ignore[arg-type]
    catalog = tmp_path / "catalog"
    catalog.mkdir()
    for i in range(STYLES):
        picture(100 + i).save(catalog / f"style-{i}.png")
    training = site.command(
        "train", catalog, "--json", "--progress", "json", "--slots", "3", "--preset", "default",
        *sets(iterations=ITERATIONS, checkpoint_every=EVERY),
    )  # fmt: skip
    drained = _style_on(site, 1, training)
    site.drain(1)
    lost = _style_on(site, 0, training)
    site.kill(0)
    out, err = training.communicate(timeout=PATIENCE)
    assert training.returncode == 0, err[-3000:]
    # Ray may print messages of a lost node after the document.
    document, end = json.JSONDecoder().raw_decode(out)
    assert out[end:].strip() == ""
    styles = {s["id"]: s for s in document["styles"]}
    assert {s["state"] for s in styles.values()} == {"registered"} and len(styles) == STYLES
    # The style of the announced end was saved and given back: it lost no attempt.
    assert drained != lost
    assert {k for k, s in styles.items() if s["attempts"] > 1} == {lost}
    home = open_store(HOME)
    assert [n for n in home.list() if n.startswith(("styles-in-training/", "claims/"))] == []
    gallery = document["gallery"]
    assert gallery.startswith(f"{HOME}/jobs/") and b"style-5" in _object(gallery)

    for style in (drained, lost):
        there = Registry(Home.find(HOME)).resolve(style).folder() / "style.safetensors"
        assert there.read_bytes() == _trained_here(style, catalog, tmp_path / "here")

    again = site.run("train", catalog, "--preset", "default",
                     *sets(iterations=ITERATIONS, checkpoint_every=EVERY))  # fmt: skip
    assert {s["state"] for s in again["styles"]} == {"skipped"}

    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(PHOTOS):
        picture(i, (48, 40)).save(photos / f"{i:03}.png")
    s3.requests.clear()
    made = site.run("stylize", "--styles", "style-0,style-1,style-2", "--input", photos,
                    "--output", OUTPUT)  # fmt: skip
    assert (made["images"], made["errors"]) == (3 * PHOTOS, [])
    images = [n for n in open_store(OUTPUT).list() if n.endswith(".png")]
    assert len(images) == 3 * PHOTOS
    out = f"/{OUTPUT.removeprefix('s3://')}/style-"
    puts = [path for method, path in s3.requests if method == "PUT" and path.startswith(out)]
    assert len(puts) == 3 * PHOTOS
    measured = site.run("evaluate", "--styles", "style-0,style-1", "--photos", photos,
                        "--limit", "4", "--metrics", "lpips")  # fmt: skip
    assert measured["results"]["style-1"]["ours"]["lpips"]["count"] == 4
    assert measured["output"].startswith(f"{HOME}/jobs/evaluate-")
    assert measured["registered"] == ["style-0:1", "style-1:1"]
    _serve(site, photos / "007.png", open_store(OUTPUT).read("style-1/007.png"))
    _no_secret(s3, tmp_path)


def _style_on(site: Site, node: int, training: subprocess.Popen[str]) -> str:
    """The style that is in training on a node, as soon as it has a checkpoint."""
    home, deadline = open_store(HOME), time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert training.poll() is None, training.communicate()[1][-3000:]
        names = home.list("jobs") + home.list("styles-in-training")
        for queue in (n for n in names if n.endswith("/queue.json")):
            for style, state in json.loads(home.read(queue)).items():
                saved = any(f"/{style}-" in n and "/checkpoint" in n for n in names)
                if state.get("node") == site.nodes[node] and saved:
                    return str(style)
        time.sleep(0.2)
    raise AssertionError("no style was trained on the node")


def _trained_here(style: str, catalog: Path, folder: Path) -> bytes:
    """The weights of a registered style, trained in this process without interruption."""
    torch.set_num_threads(1)
    home = Home.find(HOME)
    settings = load_style(Registry(home).resolve(style).folder()).settings
    base = home.base_folder("tiny")
    (bank,) = {name.split("/")[0] for name in open_store(home.shared(home.banks)).list()}
    previews = torch.stack([image_to_tensor(picture(i, (SIZE, SIZE))) for i in (1, 2)])
    save_tensors(folder / "previews.safetensors", {"photos": previews})
    task = StyleTask(
        id=style, image=catalog / f"{style}.png", counterpart=None, fingerprint="again",
        settings=settings, folder=folder / style, bank=f"{home.shared(home.banks)}/{bank}",
    )  # fmt: skip
    worker = StyleWorker.open(base, folder / "previews.safetensors", "cpu")
    worker.train(task, lambda iteration, of, losses: False)
    return (folder / style / "style" / "style.safetensors").read_bytes()


def _serve(site: Site, photo: Path, expected: bytes) -> None:
    """The served picture is the corpus's."""
    port = free_port()
    server = site.command("serve", "--port", str(port))
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 180
        while True:
            assert server.poll() is None, server.communicate()[1][-3000:]
            assert time.monotonic() < deadline
            try:
                with urllib.request.urlopen(f"{address}/readyz", timeout=5):
                    break
            except OSError:
                time.sleep(0.5)
        form = ["-F", f"image=@{photo}", "-F", 'mix={"styles": ["style-1"]}']
        command = ["curl", "-sS", *form, f"{address}/v1/stylize"]
        served = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout
        assert served.startswith(b"\x89PNG"), served[:1000]
        pixels = [Image.open(io.BytesIO(data)).convert("RGB").tobytes()
                  for data in (served, expected)]  # fmt: skip
        assert pixels[0] == pixels[1]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(120)


def _object(uri: str) -> bytes:
    folder, _, name = uri.rpartition("/")
    return open_store(folder).read(name)


def _no_secret(s3: S3Server, place: Path) -> None:
    """No object of the home and of the output tells the store's key."""
    for location in (HOME, OUTPUT):
        store = open_store(location)
        for name in store.list():
            assert SECRET.encode() not in store.read(name), name
    shutil.rmtree(place)

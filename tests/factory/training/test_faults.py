"""Training runs whose driver, workers or nodes are killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from factory.core.home import Home
from factory.registry import Registry
from factory.training.style_worker import CHECKPOINT, StyleTask, StyleWorker
from osasis.bundles.style import load_style
from osasis.images.tensors import image_to_tensor
from osasis.storage import save_tensors
from tests.conftest import ROOT, SHARED
from tests.factory.conftest import ray_processes, sets
from tests.tiny import FEW as FEW_STEPS
from tests.tiny import SIZE, picture

pytestmark = pytest.mark.slow

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "PYTHONPATH": str(ROOT)}
PATIENCE = 900


class Driver:
    """`style-factory train` in a subprocess with its own Ray."""

    def __init__(self, home: Path, catalog: Path, *options: str) -> None:
        command = (sys.executable, "-m", "factory.cli", "train", catalog, "--home", home)
        self.out, self.err = (home / f"driver-{n}.txt" for n in ("out", "err"))
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [str(c) for c in (*command, "--json", "--progress", "json", *options)],
                env={**os.environ, **ENVIRONMENT},
                stdout=out,
                stderr=err,
            )

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until a condition returns a true value, and return it; the driver must not exit."""
        deadline = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert self.process.poll() is None, self.err.read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return found

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the driver of a failed test."""
        if self.process.poll() is None:
            self.kill()

    def end(self) -> tuple[int, dict[str, Any]]:
        """Wait for the driver's exit; returns exit code and JSON document."""
        code = self.process.wait(PATIENCE)
        return code, json.loads(self.out.read_text())


def iterations(home: Path) -> dict[str, int]:
    """Iterations in the checkpoints of a home's unfinished styles, by folder name."""
    found = {}
    for path in Home(home).training.glob(f"*/{CHECKPOINT}"):
        try:
            with safe_open(path, framework="pt") as f:
                found[path.parent.name] = int(json.loads(f.metadata()["info"])["iteration"])
        except (OSError, ValueError):  # registered and deleted meanwhile
            continue
    return found


def weights(home: Path) -> dict[str, bytes]:
    """The champion's weights of every style of a home; each style has one version."""
    out = {}
    for style, versions in Registry(Home(home)).all_versions().items():
        (version,) = versions
        assert version.aliases == ("champion",)
        out[style] = (version.folder() / "style.safetensors").read_bytes()
    return out


def train_again(
    home: Path, base: Path, previews: torch.Tensor, style: str, image: Path, folder: Path
) -> bytes:
    """The weights of a registered style trained again in this process with its settings."""
    torch.set_num_threads(1)
    registered = load_style(Registry(Home(home)).resolve(style).folder())
    save_tensors(folder / "previews.safetensors", {"photos": previews})
    (bank,) = Home(home).banks.iterdir()
    task = StyleTask(
        id=style,
        image=image,
        counterpart=None,
        fingerprint="again",
        settings=registered.settings,
        folder=folder / style,
        bank=bank,
    )
    worker = StyleWorker.open(base, folder / "previews.safetensors", "cpu")
    worker.train(task, lambda iteration, of, losses: None)
    return (folder / style / "style" / "style.safetensors").read_bytes()


# A driver that is killed several times

STYLES, ITERATIONS, EVERY = 5, 60, 5
SHARES = (0.1, 0.5, 0.9)


def share(home: Path) -> float:
    """Trained share of the catalog: registered styles, and iterations of the unfinished ones."""
    started = iterations(home)
    done = Registry(Home(home)).styles()
    running = [n for folder, n in started.items() if folder.rpartition("-")[0] not in done]
    return (len(done) + sum(running) / ITERATIONS) / STYLES


def reaches(home: Path, wanted: float) -> float | None:
    """A home's share, once it is at least ``wanted`` and an unfinished style has a checkpoint."""
    now = share(home)
    return now if now >= wanted and iterations(home) else None


@pytest.mark.ci
def test_sigterm_stops_a_run_like_ctrl_c(fresh_home: Callable[[], Path], tmp_path: Path) -> None:
    """systemd and Kubernetes send SIGTERM: one line, exit code 130, no traceback of Ray.

    The style is saved, although no checkpoint was due.
    """
    picture(100).save(tmp_path / "style.png")
    home = fresh_home()
    rare = sets(iterations=4000, checkpoint_every=4000)
    driver = Driver(home, tmp_path, *rare, "--slots", "1")
    driver.until(lambda: '"iteration": ' in driver.err.read_text())
    assert iterations(home) == {}
    driver.process.terminate()
    code, errors = driver.process.wait(60), driver.err.read_text()
    (saved,) = iterations(home).values()
    assert 1 <= saved < 4000
    assert code == 130, errors[-3000:] + driver.out.read_text()
    assert "stopped; to continue, run the same command again" in errors
    assert "SIGTERM received" not in errors
    assert list(Home(home).claims.glob("*.claim")) == []


def test_a_run_resumed_after_kills_equals_an_uninterrupted_run(
    fresh_home: Callable[[], Path], tmp_path: Path
) -> None:
    for i in range(STYLES):
        picture(100 + i).save(tmp_path / f"style-{i}.png")
    options = [*sets(iterations=ITERATIONS, checkpoint_every=EVERY, dropout=0.1), "--slots", "2"]
    options += ["--preset", "default"]
    whole, killed = fresh_home(), fresh_home()
    assert Driver(whole, tmp_path, *options).end()[0] == 0
    expected = weights(whole)
    assert len(set(expected.values())) == STYLES

    for wanted in SHARES:
        driver = Driver(killed, tmp_path, *options)
        reached = driver.until(lambda wanted=wanted: reaches(killed, wanted))
        driver.kill()
        assert wanted <= reached < min(1, wanted + 0.25)
    registered = len(Registry(Home(killed)).styles())
    assert registered >= STYLES - 2
    code, document = Driver(killed, tmp_path, *options).end()
    assert code == 0
    states = [s["state"] for s in document["styles"]]
    assert sorted(states) == ["registered"] * (STYLES - registered) + ["skipped"] * registered
    assert weights(killed) == expected
    for style in expected:
        runs = [Registry(Home(h)).resolve(style).run_id for h in (whole, killed)]
        # Some points are logged during the training, the others at its end.
        points = [
            [(m.step, m.value) for m in Registry(Home(h)).client.get_metric_history(r, "total")]
            for h, r in zip((whole, killed), runs, strict=True)
        ]
        assert sorted(points[0]) == sorted(points[1]) and len(points[0]) == ITERATIONS
    # No unfinished style and no claim is left.
    assert not list(Home(killed).training.iterdir())
    assert not list(Home(killed).claims.glob("*.claim"))


# Twelve real styles, one with a broken image, and a killed worker

FEW: dict[str, Any] = {
    "iterations": 3,
    "checkpoint_every": 1,
    "batch_size": 2,
    "bank_size": 8,
    "counterpart_candidates": 2,
    "counterpart_steps": 10,
    "stylize_encode_steps": 10,
    "stylize_decode_steps": 4,
}


def test_twelve_real_styles_with_a_broken_image_and_a_killed_worker(tmp_path: Path) -> None:
    source, catalog, home = SHARED / "data" / "styles", tmp_path / "styles", tmp_path / "home"
    if not source.is_dir():
        pytest.skip(f"{source} is missing: the real style images")
    shutil.copytree(source, catalog)
    images = sorted(catalog.glob("*.png"))
    assert len(images) == 12
    broken = catalog / "lithograph.png"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    home.mkdir()
    options = [part for k, v in FEW.items() for part in ("--set", f"{k}={v}")] + ["--slots", "2"]

    with Driver(home, catalog, *options) as driver:
        driver.until(lambda: iterations(home) and len(Registry(Home(home)).styles()) >= 2)
        os.kill(ray_processes("RayTrainWorker", driver.process.pid)[0], signal.SIGKILL)
        code, document = driver.end()
    styles = {s["id"]: s for s in document["styles"]}
    assert code == 1
    failed = styles.pop("lithograph")
    assert failed["state"] == "failed" and failed["kind"] == "image"
    assert f"{broken.name}: " in failed["reason"]
    assert {s["state"] for s in styles.values()} == {"registered"} and len(styles) == 11
    # Only the killed worker's style was retried.
    (retried,) = [k for k, s in styles.items() if s["attempts"] > 1]
    assert styles[retried]["attempts"] == 2

    made = weights(home)
    assert set(made) == set(styles) and len(set(made.values())) == 11
    base = Home(home).base_folder(None)
    undisturbed_style = next(k for k in styles if k != retried)
    size = json.loads((base / "base.json").read_text())["config"]["image_size"]
    previews = torch.stack([image_to_tensor(picture(i, (size, size))) for i in (1, 2)])
    for style in (retried, undisturbed_style):
        again = train_again(home, base, previews, style, catalog / f"{style}.png", tmp_path / "a")
        assert made[style] == again, style

    started = time.monotonic()
    rerun = Driver(home, catalog, *options)
    code, document = rerun.end()
    seconds = time.monotonic() - started
    assert code == 1
    counted = [s["state"] for s in document["styles"]]
    assert (counted.count("skipped"), counted.count("failed")) == (11, 1)
    errors = rerun.err.read_text()
    assert "0 to train, 11 registered before, 1 that cannot be trained" in errors
    # Ray was not started.
    assert "training on" not in errors
    assert seconds < 60
    assert weights(home) == made


# Three nodes, one of them lost

ON_THREE_NODES = """
import json, os, sys, threading, time
from pathlib import Path
from ray.cluster_utils import Cluster

home, catalog, options = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
memory = {"object_store_memory": 100_000_000}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1,
    "include_dashboard": False, **memory})
nodes = [cluster.add_node(num_cpus=1, **memory) for _ in range(2)]
cluster.wait_for_nodes()
os.environ["RAY_ADDRESS"] = cluster.address
victim = nodes[0]
seen = {}      # style -> nodes that trained it
lost = []      # styles with a checkpoint that were running on the lost node

def watch():
    while True:
        time.sleep(0.1)
        for path in home.glob("jobs/*/queue.json"):
            running = {k: s["node"] for k, s in json.loads(path.read_text()).items() if "node" in s}
            for style, node in running.items():
                seen.setdefault(style, []).append(node)
            nodes_seen = {n for nodes in seen.values() for n in nodes}
            started = [k for k, n in running.items() if n == victim.node_id
                       and list(home.glob(f"styles-in-training/{k}-*/checkpoint.safetensors"))]
            if len(nodes_seen) == 3 and started and not lost:
                lost.extend(started)
                cluster.remove_node(victim, allow_graceful=False)

threading.Thread(target=watch, daemon=True).start()
from factory import train
result = train(catalog, home=home, preset="default", overrides=options, slots=3, progress="json")
print(json.dumps({
    **result.to_dict(), "lost": lost, "victim": victim.node_id,
    "nodes": {k: sorted(set(v)) for k, v in seen.items()},
}), flush=True)
import ray
ray.shutdown()
cluster.shutdown()
"""


def test_styles_of_a_lost_node_are_trained_on_another(
    fresh_home: Callable[[], Path], tmp_path: Path
) -> None:
    home, count = fresh_home(), 9
    for i in range(count):
        picture(100 + i).save(tmp_path / f"style-{i}.png")
    settings = {**FEW_STEPS, "iterations": ITERATIONS, "checkpoint_every": EVERY}
    command = [sys.executable, "-c", ON_THREE_NODES, home, tmp_path, json.dumps(settings)]
    ran = subprocess.run(
        [str(c) for c in command],
        # In a subprocess, because this process may be connected to another Ray.
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    # Ray may print messages of the lost node to standard output, before and after the document.
    (line,) = (line for line in ran.stdout.splitlines() if line.startswith("{"))
    document = json.loads(line)
    assert "training on 3 CPU slot(s)" in ran.stderr
    styles = {s["id"]: s for s in document["styles"]}
    assert len(styles) == count
    assert {s["state"] for s in styles.values()} == {"registered"}
    assert len({n for on in document["nodes"].values() for n in on}) == 3
    (lost,) = document["lost"]
    # Started on the lost node, finished on another; no other style was retried.
    assert len(document["nodes"][lost]) == 2 and document["victim"] in document["nodes"][lost]
    assert {k: s["attempts"] for k, s in styles.items() if s["attempts"] > 1} == {lost: 2}
    previews = torch.stack([image_to_tensor(picture(i, (SIZE, SIZE))) for i in (1, 2)])
    again = train_again(
        home, home / "bases" / "tiny", previews, lost, tmp_path / f"{lost}.png", tmp_path / "a"
    )
    assert weights(home)[lost] == again

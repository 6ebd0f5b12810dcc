"""Killed jobs and jobs on two nodes give the outputs of one uninterrupted run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from factory.core.home import Home
from factory.core.stores import open_store
from pipelines.job_identity import FOLDER
from pipelines.job_log import LOG, JobLog
from tests.conftest import ROOT
from tests.pipelines.conftest import state_of, times_done, written
from tests.tiny import picture

PHOTOS = 60
# Shares of the outputs at which a job is killed; CI kills it once.
SHARES = (0.1, 0.5, 0.9, 0.99)
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "PYTHONPATH": str(ROOT)}


def driver(home: Home, source: Path, output: Path, **environment: str) -> subprocess.Popen[bytes]:
    """`style-factory stylize` in a new process, with its own Ray."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "factory.cli", "stylize", "--home", str(home.path)),
            *("--styles", "oil,ink", "--input", str(source), "--output", str(output)),
            *("--no-contact-sheet", "--workers", "2"),
        ],
        env={**os.environ, **ENVIRONMENT, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for i in range(PHOTOS):
        picture(i, (36 + i % 7, 40)).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def whole(gallery: Home, many: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The outputs of one uninterrupted run."""
    output = tmp_path_factory.mktemp("whole")
    assert driver(gallery, many, output).wait(300) == 0
    files = written(output)
    assert len(files) == 2 * PHOTOS
    return files


@pytest.mark.slow
@pytest.mark.parametrize("shares", [SHARES, pytest.param((0.5,), marks=pytest.mark.ci)])
def test_a_repeatedly_killed_job_gives_the_outputs_of_an_uninterrupted_one(
    gallery: Home,
    many: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    shares: tuple[float, ...],
) -> None:
    for share in shares:
        process = driver(gallery, many, tmp_path)
        deadline = time.monotonic() + 240
        while len(written(tmp_path)) < share * len(whole):
            assert process.poll() is None or len(written(tmp_path)) == len(whole)
            if process.poll() is not None:
                break
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    assert driver(gallery, many, tmp_path).wait(300) == 0
    assert written(tmp_path) == whole
    counted = times_done(tmp_path)
    assert len(counted) == len(whole)
    assert set(counted.values()) == {1}
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_two_nodes_give_the_outputs_of_one(
    gallery: Home, many: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    # A new process, because this one may already use Ray. It disconnects before the cluster shuts
    # down; otherwise its exit code would report a dead node.
    script = (
        "import sys, os\n"
        "from ray.cluster_utils import Cluster\n"
        "node = {'num_cpus': 1, 'object_store_memory': 100_000_000}\n"
        "cluster = Cluster(initialize_head=True,"
        " head_node_args={**node, 'include_dashboard': False})\n"
        "cluster.add_node(**node)\n"
        "cluster.wait_for_nodes()\n"
        "os.environ['RAY_ADDRESS'] = cluster.address\n"
        "import ray\n"
        "ray.init(address=cluster.address, log_to_driver=False)\n"
        "assert len([n for n in ray.nodes() if n['Alive']]) == 2\n"
        "from factory.core.home import Home\n"
        "from pipelines import stylize\n"
        "result = stylize(['oil', 'ink'], sys.argv[2], sys.argv[3],"
        " home=Home.find(sys.argv[1]), workers=2)\n"
        "ray.shutdown()\n"
        "cluster.shutdown()\n"
        "sys.exit(result.failed)\n"
    )
    command = [sys.executable, "-c", script, str(gallery.path), str(many), str(tmp_path)]
    ran = subprocess.run(command, env={**os.environ, **ENVIRONMENT}, timeout=300, check=False)
    assert ran.returncode == 0
    assert written(tmp_path) == whole
    log = JobLog(open_store(tmp_path / FOLDER / state_of(tmp_path))).lines(LOG)
    nodes = Counter(line["node"] for line in log if "node" in line)
    assert len(nodes) == 2 and "" not in nodes  # both computed

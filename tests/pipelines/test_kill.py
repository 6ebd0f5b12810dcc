"""Killed jobs and jobs on two nodes give the outputs of one uninterrupted run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from factory.core.home import Home
from factory.core.object_store import LOOK_SECONDS
from factory.core.stores import open_store
from pipelines.job_identity import FOLDER
from pipelines.job_log import LOG, JobLog
from tests.conftest import ROOT
from tests.pipelines.conftest import images, state_of, times_done, written
from tests.s3_server import BUCKET, S3Server, s3_server
from tests.tiny import picture

PHOTOS = 60
# Shares of the outputs at which a job is killed; CI kills it once.
SHARES = (0.1, 0.5, 0.9, 0.99)
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "PYTHONPATH": str(ROOT)}


def driver(
    home: Home, source: Path | str, output: Path | str, **environment: str
) -> subprocess.Popen[bytes]:
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


def kill_and_finish(
    gallery: Home, source: Path | str, output: Path | str, count: int, shares: tuple[float, ...]
) -> None:
    """Kill a job when shares of its outputs are written, and then let it finish."""
    for share in shares:
        process = driver(gallery, source, output)
        deadline = time.monotonic() + 240
        while (there := len(images(output))) < share * count:
            assert process.poll() is None or there == count
            if process.poll() is not None:
                break
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    assert driver(gallery, source, output).wait(300) == 0


@pytest.mark.slow
@pytest.mark.parametrize("shares", [SHARES, pytest.param((0.5,), marks=pytest.mark.ci)])
def test_a_repeatedly_killed_job_gives_the_outputs_of_an_uninterrupted_one(
    gallery: Home,
    many: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    shares: tuple[float, ...],
) -> None:
    kill_and_finish(gallery, many, tmp_path, len(whole), shares)
    assert written(tmp_path) == whole
    counted = times_done(tmp_path)
    assert len(counted) == len(whole)
    assert set(counted.values()) == {1}
    assert not list(tmp_path.rglob("*.part"))


@pytest.fixture(scope="module")
def s3(many: Path) -> Iterator[S3Server]:
    """A store that holds the photos below BUCKET/many."""
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as server:
        for photo in many.iterdir():
            open_store(f"s3://{BUCKET}/many").write(photo.name, photo.read_bytes())
        yield server


@pytest.mark.slow
def test_a_job_in_a_store_gives_the_outputs_of_one_on_a_folder(
    gallery: Home, s3: S3Server, whole: dict[str, bytes], tmp_path: Path
) -> None:
    output = f"s3://{BUCKET}/{tmp_path.name}"
    kill_and_finish(gallery, f"s3://{BUCKET}/many", output, len(whole), SHARES)
    found = written(output)
    assert found.keys() == whole.keys()
    # The provenance names the photo's file alone, so that it is the same.
    assert found == whole
    counted = times_done(output)
    assert len(counted) == len(whole)
    assert set(counted.values()) == {1}


@pytest.mark.slow
def test_a_job_in_a_store_sends_few_requests(
    gallery: Home, s3: S3Server, whole: dict[str, bytes], tmp_path: Path
) -> None:
    output = f"s3://{BUCKET}/{tmp_path.name}"
    s3.requests.clear()
    started = time.monotonic()
    assert driver(gallery, f"s3://{BUCKET}/many", output).wait(300) == 0
    seconds = time.monotonic() - started
    count = len(s3.requests)
    assert s3.count("many/") == {"GET": PHOTOS}
    outputs = [s3.count(f"{tmp_path.name}/{style}/") for style in ("oil", "ink")]
    assert outputs == [{"PUT": PHOTOS}] * 2
    others = count - 3 * PHOTOS
    log = JobLog(open_store(output).within(FOLDER).within(state_of(output)))
    batches = sum("busy" in line for line in log.lines(LOG))
    # A few for each batch, for each look at the job's state, and at the start and the end.
    assert others <= 8 * batches + 10 * seconds / LOOK_SECONDS + 40


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

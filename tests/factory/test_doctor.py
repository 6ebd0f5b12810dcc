"""The checks of `style-factory doctor`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from factory.core.home import Home
from factory.core.node_probe import Node, NodeProbe
from factory.doctor import Finding, examine, node_findings

VERSIONS = {"python": "3.11.2", "ray": "2.60.0", "torch": "2.15.0", "style-factory": "0.1.0"}
GOOD = NodeProbe(VERSIONS, 0, True, "", 10**11, 10**10, 10**10, clock=1000.0)


def problems(probe: NodeProbe, gpus: int = 0) -> list[tuple[str, str]]:
    """Status and text of the findings that are not ok."""
    node = Node("1", "10.0.0.1", gpus)
    found = list(node_findings(node, probe, Home(Path("/home")), VERSIONS, (999.0, 1001.0)))
    assert {f.subject for f in found} == {"node 10.0.0.1"}
    assert all(bool(f.advice) == (f.status != "ok") for f in found)
    return [(f.status, f.found) for f in found if f.status != "ok"]


def test_a_node_without_a_problem() -> None:
    assert problems(GOOD) == []
    assert problems(replace(GOOD, gpus=2), gpus=2) == []


@pytest.mark.parametrize(
    ("change", "gpus", "expected"),
    [
        ({"versions": {**VERSIONS, "ray": "2.59.0"}}, 0, ("error", "ray 2.59.0, here 2.60.0")),
        (
            {"versions": {**VERSIONS, "torch": ""}},
            0,
            ("error", "torch is missing, here 2.15.0"),
        ),
        ({"gpus": 1}, 2, ("error", "Ray offers 2 GPU(s), but PyTorch finds 1")),
        ({"reads": False}, 0, ("error", "home /home is another one than here")),
        (
            {"writes": "read-only file system"},
            0,
            ("error", "home /home cannot be written: read-only file system"),
        ),
        ({"disk_free": 10**9}, 0, ("warning", "1.0 GB free disk of the home")),
        ({"memory_free": 10**9}, 0, ("warning", "1.0 GB free memory")),
        ({"shared_memory": 64 * 10**6}, 0, ("warning", "0.1 GB of /dev/shm")),
        ({"clock": 1061.0}, 0, ("warning", "its clock is 60 s off")),
    ],
)
def test_each_problem_of_a_node(
    change: dict[str, Any], gpus: int, expected: tuple[str, str]
) -> None:
    assert problems(replace(GOOD, **change), gpus) == [expected]


def test_a_working_installation_and_a_damaged_base(
    fresh_home: Callable[[], Path], local_ray: None
) -> None:
    home = Home(fresh_home())
    found = list(examine(home))
    assert {f.status for f in found} == {"ok"}, found
    assert [f.found for f in found if f.subject == "registry"] == [
        f"{home.tracking_uri}: 0 style(s), writable"
    ]
    weights = home.bases / "tiny" / "diffae.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    (damaged,) = [f for f in examine(home) if f.status == "error"]
    assert damaged.subject == "bases" and "diffae.safetensors" in damaged.found
    assert list(home.path.glob(".doctor-*")) == []


def test_a_home_that_does_not_exist_is_not_made(local_ray: None, tmp_path: Path) -> None:
    home = Home(tmp_path / "absent")
    found = list(examine(home))
    assert found[0] == Finding(
        "home",
        "warning",
        f"{home.path} does not exist",
        "the first training creates it; check --home",
    )
    assert [f.status for f in found].count("warning") == 1
    assert not home.path.exists()
    assert found[-1].subject == "speed"
    seconds = re.search(r"takes (\d+) s on one core", found[-1].found)
    assert seconds is not None and 1 <= int(seconds[1]) < 1000


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_exit_code_1(fresh_home: Callable[[], Path]) -> None:
    command = [sys.executable, "-m", "factory.cli", "doctor", "--home", str(fresh_home())]
    ran = subprocess.run(
        [*command, "--address", "127.0.0.1:9", "--json"], capture_output=True, check=False
    )
    assert ran.returncode == 1
    (error,) = [f for f in json.loads(ran.stdout)["findings"] if f["status"] == "error"]
    assert error["subject"] == "Ray" and "127.0.0.1:9" in error["found"]

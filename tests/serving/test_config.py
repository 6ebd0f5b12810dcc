"""Files of the server's settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from factory.core.ports import free_port
from osasis.errors import UserError
from osasis.validation import InvalidInputError
from serving.app import engine_gpus
from serving.config import ServeConfig, load_config


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_yaml_of_any_editor(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "serve.yaml"
    text = "x-n: &n {pixels: 1000}\r\nbase:\r\nlimits: {<<: *n, frames: 2}\r\npinned: [oil]\r\n"
    path.write_bytes(text.encode(encoding))
    assert load_config(path) == {
        "base": None,
        "limits": {"pixels": 1000, "frames": 2},
        "pinned": ["oil"],
    }


def test_every_problem_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("base: 0777\nkeys: no\nqueue: many\npinned: [oil, 2024]\nlimits: {frames: 0}\n")
    with pytest.raises(InvalidInputError) as refused:
        load_config(path)
    assert str(refused.value).split("; line ") == [
        f"{path}: line 1: base is 0777, which is a number in YAML; it must be text: put it in "
        "quotes",
        "2: keys is no, which is true or false in YAML; it must be text: put it in quotes",
        "3: queue is 'many'; it must be a whole number in [1, 10000000000000]",
        "4: pinned[1] is 2024, which is a number in YAML; it must be text: put it in quotes",
        "5: limits.frames is 0; it must be a whole number in [1, 10000000000000]",
    ]


def test_files_that_are_no_settings(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    for text, says in (("- a\n", ": it must be an object"), ("a:\n\tb: 1\n", ":2: not valid YAML")):
        path.write_text(text)
        with pytest.raises(UserError) as refused:
            load_config(path)
        assert str(refused.value).startswith(f"{path}{says}")


def test_gpus_and_device_that_contradict() -> None:
    for settings, says in (
        ({"device": "cuda", "engine_gpus": 0}, "engine_gpus is 0, but device is cuda"),
        ({"device": "cpu", "engine_gpus": 0.5}, "engine_gpus is 0.5, but device is cpu"),
        ({"device": "gpu"}, "device is 'gpu'; it must be one of cpu, cuda"),
    ):
        with pytest.raises(InvalidInputError) as refused:
            ServeConfig.parse(settings)
        assert says in str(refused.value)
    assert ServeConfig.parse({"device": "cuda"}).engine_gpus is None


def test_a_gpu_of_a_cluster_without_any() -> None:
    with pytest.raises(UserError, match="device is cuda, but the cluster has no GPU"):
        engine_gpus(ServeConfig.parse({"device": "cuda"}))
    assert engine_gpus(ServeConfig.parse({})) == 0


@pytest.mark.slow
@pytest.mark.ci
def test_engines_that_need_more_gpus_than_the_machine_has(home: Path) -> None:
    command = [sys.executable, "-m", "factory.cli", "serve", "--home", home, "--port", free_port()]
    ran = subprocess.run(
        [*map(str, command), "--set", "engine_gpus=0.5"],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.splitlines()[-1] == (
        "error: engine_gpus is 0.5 for 1 engine(s), but this machine has 0 GPU(s); lower "
        "engine_gpus or replicas, or set engine_gpus to 0 to serve from the CPU"
    )

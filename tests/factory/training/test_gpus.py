"""A GPU that Ray offers and PyTorch does not find: no part of the factory computes on the CPU."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from factory.core.gpus import fair_share, workers_on
from tests.factory.conftest import Shop
from tests.tiny import FEW, picture

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")

# One Ray with a GPU that does not exist; prints what each part of the factory said, as JSON.
ON_A_MISSING_GPU = """
import json, os, pickle, sys, time
from pathlib import Path
import psutil
import ray
from factory import train
from factory.core.gpus import check_gpu, remote_task
from factory.core.ray_cluster import connect, stop_ray
from factory.training.slots import TrainingJob, plan_slots, run_job
from osasis.errors import UserError
from pipelines.base_training import train_base
from serving.app import engine_gpus
from serving.config import ServeConfig

base, previews, task, home, catalog, few, folder = pickle.loads(bytes.fromhex(sys.argv[1]))

def process():
    return os.getpid()

def error(call):
    try:
        call()
    except UserError as e:
        return str(e)

def ended(pid):
    for _ in range(100):
        if not psutil.pid_exists(pid):
            return True
        time.sleep(0.1)
    return False

connect(2, num_gpus=1)
pids = {gpu: ray.get(remote_task(process, gpus=gpu).remote()) for gpu in (1, 0)}
said = {"gpu task ended": ended(pids[True]), "cpu task ended": not psutil.pid_exists(pids[False])}
said["check"] = error(check_gpu)
said["train"] = error(lambda: train(catalog, home=home, overrides=few, progress="none"))
slots = plan_slots(base, None, 1)
said["slots"] = [slots.count, slots.device]
states = run_job(TrainingJob(folder, base, previews, [task]), slots, lambda snapshot: None)
said["slot"] = states[task.id].reason
for workers in (1, 2):
    said[f"base {workers}"] = error(lambda: train_base(
        "mine", catalog, config="portraits64", overrides={"batch_size": 2}, workers=workers))
said["engine"] = [engine_gpus(ServeConfig(**c)) for c in (
    {}, {"replicas": 4}, {"engine_gpus": 0}, {"device": "cpu"}, {"engine_gpus": 2})]
print(json.dumps(said), flush=True)
stop_ray()
"""


@pytest.fixture(scope="module")
def said(
    shop: Shop, fresh_home: Callable[[], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("gpus")
    (folder / "catalog").mkdir()
    picture(100).save(folder / "catalog" / "oil.png")
    task = shop.task("oil", folder / "catalog" / "oil.png", folder / "oil")
    home = fresh_home()
    arguments = (shop.base, shop.previews, task, home, folder / "catalog", FEW, folder / "job")
    ran = subprocess.run(
        [sys.executable, "-c", ON_A_MISSING_GPU, pickle.dumps(arguments).hex()],
        env={**os.environ, "STYLE_FACTORY_HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.ci
def test_the_process_of_a_gpu_task_ends_with_it(said: dict[str, Any]) -> None:
    assert said["gpu task ended"] and not said["cpu task ended"]


@pytest.mark.slow
@pytest.mark.ci
def test_the_error_says_what_was_asked_and_found(said: dict[str, Any]) -> None:
    assert said["check"].startswith(
        f"device cuda was asked for, but PyTorch {torch.__version__} finds no GPU on "
    )
    assert "CUDA_VISIBLE_DEVICES is 0; check the GPU's driver with nvidia-smi" in said["check"]
    assert said["check"].endswith("`ray start --num-gpus 0`")
    assert said["train"] == f"content bank: {said['check']}"
    assert said["slots"] == [1, "cuda"]
    assert said["slot"] == f"slot 0 could not start: {said['check']}"
    assert said["base 1"] == said["check"]
    assert said["base 2"] == (
        "2 workers need a GPU each, but the cluster has 1; give at most 1 worker(s)"
    )


@pytest.mark.slow
@pytest.mark.ci
def test_engines_share_the_gpus_and_ray_counts_them(said: dict[str, Any]) -> None:
    assert said["engine"] == [1, 0.25, 0, 0, 2]


def test_workers_that_fit_on_gpus() -> None:
    assert [workers_on(2, share) for share in (0.5, 0.4, 1, 2)] == [4, 4, 2, 1]
    assert [fair_share(2, workers) for workers in (1, 2, 3, 8)] == [1, 1, 0.5, 0.25]

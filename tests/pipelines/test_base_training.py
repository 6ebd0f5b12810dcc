"""`base train` and `base evaluate` as a user runs them, on a real Ray and MLflow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from factory.core.home import Home
from factory.registry import Registry
from osasis.bundles.base import load_base
from osasis.errors import UserError
from osasis.networks.sizes import load_config
from osasis.pretraining.settings import PretrainSettings
from pipelines.base_training import PHOTOS, BaseTrainingJob, _run_workers
from pipelines.base_training_log import ProgressLog
from tests.factory.conftest import Ran, cli

SETTINGS = {
    "iterations": 20,
    "batch_size": 4,
    "latent_iterations": 10,
    "lr": 0.001,
    "samples_every": 10,
    "checkpoint_every": 5,
}


def train(home: Path, sources: Path, name: str, *options: str) -> Ran:
    sets = [part for k, v in SETTINGS.items() for part in ("--set", f"{k}={json.dumps(v)}")]
    return cli(
        *("base", "train", name, "--home", home, "--json", "--like", "tiny", *sets),
        *("--images", sources / "photos", "--config", sources / "tiny.json", *options),
    )


def curve(home: Path, name: str) -> list[float]:
    client = Registry(Home(home)).client
    experiment = client.get_experiment_by_name("style-factory-bases")
    runs = client.search_runs([experiment.experiment_id], f"run_name = '{name}'")
    assert len(runs) == 1, "one MLflow run a base, however often it was stopped"
    history = client.get_metric_history(runs[0].info.run_id, "diffae.loss")
    assert client.list_artifacts(runs[0].info.run_id, "samples")
    assert runs[0].info.artifact_uri.startswith((home / "artifacts").as_uri())
    return [m.value for m in sorted(history, key=lambda m: m.step)]


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.usefixtures("local_ray")
def test_stopped_continued_and_with_two_workers(
    fresh_home: Callable[[], Path], sources: Path
) -> None:
    home = fresh_home()
    stopped = train(home, sources, "one", "--minutes", "0")
    assert stopped.code == 1, stopped.err
    assert json.loads(stopped.out)["finished"] is False
    one = train(home, sources, "one")
    assert one.code == 0, one.err
    two = train(home, sources, "two", "--workers", "2")
    assert two.code == 0, two.err
    alone, together = curve(home, "one"), curve(home, "two")
    assert len(alone) == len(together) == 2
    assert alone[-1] < alone[0]
    assert together == pytest.approx(alone, rel=1e-3)
    bases = [load_base(home / "bases" / name) for name in ("one", "two")]
    for key, value in bases[0].diffae.state_dict().items():
        torch.testing.assert_close(
            bases[1].diffae.state_dict()[key], value, rtol=0.05, atol=5e-3, msg=lambda m: f"{m}"
        )
    assert bases[0].guide.stages == (0, 1, 2) and bases[0].photos is not None
    assert not (home / "bases-in-training" / "one").exists()


def test_mistakes_are_named_before_anything_starts(
    fresh_home: Callable[[], Path], sources: Path
) -> None:
    home = fresh_home()
    odd = train(home, sources, "odd", "--workers", "3")
    assert odd.code == 2 and "batch_size 4 cannot be shared by 3 workers" in odd.error
    typo = train(home, sources, "typo", "--set", "latent_itertions=3")
    assert typo.code == 2 and "nearest: latent_iterations" in typo.error
    assert train(home, sources, "Bad Name").code == 2
    assert not (home / "bases-in-training").exists()


def test_evaluate_prints_its_figures(home: Path, sources: Path, tmp_path: Path) -> None:
    ran = cli(
        *("base", "evaluate", "--home", home, "--json", "--images", sources / "photos"),
        *("--steps", "10", "--samples", "4", "--limit", "3", "--output", tmp_path / "look"),
    )
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["base"] == "tiny" and found["inversion_mse"].keys() == {"0.5", "1"}
    assert len(found["by_photo"]) == 3 and found["frechet"] > 0
    assert {p.name for p in (tmp_path / "look").iterdir()} == {
        "reconstructions.png",
        "samples.png",
    }


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_an_error_of_a_worker_reaches_the_driver(
    fresh_home: Callable[[], Path], sources: Path, tmp_path: Path
) -> None:
    """The weights to start from vanish after the driver has checked them."""
    np.save(tmp_path / PHOTOS, np.zeros((4, 3, 32, 32), np.uint8))
    job = BaseTrainingJob(
        folder=tmp_path,
        config=load_config(sources / "tiny.json"),
        settings=PretrainSettings.parse({"batch_size": 2}),
        start=tmp_path / "absent.safetensors",
    )
    log = ProgressLog(Home(fresh_home()), "broken", tmp_path, job.settings, print)
    with pytest.raises(UserError, match=r"absent\.safetensors"):
        _run_workers(job, 1, log)
    assert log.client.get_run(log.run_id).info.status == "FAILED"

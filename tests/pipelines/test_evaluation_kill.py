"""A killed evaluation gives the measurements of an uninterrupted one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from factory.core.home import Home
from pipelines.measurements import MERGED, ROWS
from tests.conftest import ROOT
from tests.pipelines.conftest import register
from tests.tiny import picture

PHOTOS = 40
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "PYTHONPATH": str(ROOT)}


def driver(home: Home, photos: Path, output: Path) -> subprocess.Popen[bytes]:
    """`style-factory evaluate` in a new process, with its own Ray."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "factory.cli", "evaluate", "--home", str(home.path)),
            *("--styles", "oil,ink", "--photos", str(photos), "--output", str(output)),
            *("--baselines", "reinhard,sdedit", "--metrics", "lpips,structure,tone_slope"),
        ],
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.slow
def test_a_killed_evaluation_measures_what_is_missing(
    fresh_home: Callable[[], Path], tmp_path: Path
) -> None:
    home = Home(fresh_home())
    register(home, "oil", seed=1)
    register(home, "ink", seed=5)
    photos, whole, killed = (tmp_path / name for name in ("photos", "whole", "killed"))
    photos.mkdir()
    for i in range(PHOTOS):
        picture(i).save(photos / f"{i:03d}.png")
    assert driver(home, photos, whole).wait(300) == 0
    expected = pq.read_table(whole / MERGED)
    assert expected.num_rows == PHOTOS * 2 * 3 * 3
    process = driver(home, photos, killed)
    deadline = time.monotonic() + 240
    while len(list((killed / ROWS).glob("*.parquet"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    kept = list((killed / ROWS).glob("*.parquet"))
    assert len(kept) >= 3 and not (killed / MERGED).exists()
    assert driver(home, photos, killed).wait(300) == 0
    assert pq.read_table(killed / MERGED).equals(expected)

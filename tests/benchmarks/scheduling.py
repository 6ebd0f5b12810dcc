"""Overhead of scheduling: many styles whose training is a sleep, on 1, 2, 4 and 8 slots.

    python -m tests.benchmarks.scheduling [--styles 500] [--wait 0.5] [--slots 1,2,4,8]

Two cores suffice, because nothing is computed. Prints JSON for each number of slots: when the first
and the last slot was ready, the wall time from the first ready slot to the last style, the overhead
per style, and the training time as a share of the slots' time from ready to the job's end (1 is
linear scaling).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import uuid
from functools import partial
from pathlib import Path
from typing import Any

from factory.core.ray_cluster import start_ray
from factory.training.slots import SlotPlan, TrainingJob, run_job
from factory.training.style_worker import OnIteration, StyleTask
from osasis.settings import TrainSettings


class SleepingTrainer:
    """Sleeps instead of training; logs when it was ready and when each style ended."""

    def __init__(self, wait: float, log: Path) -> None:
        self.wait, self.log = wait, log
        self._log_time()

    def train(self, task: StyleTask, on_iteration: OnIteration) -> None:
        time.sleep(self.wait)
        on_iteration(1, 1, {"total": 0.0})
        self._log_time()

    def _log_time(self) -> None:
        with self.log.open("a") as f:
            f.write(f"{time.time()}\n")


def open_sleeping(wait: float, base: Path, previews: Path, device: str) -> SleepingTrainer:
    return SleepingTrainer(wait, base.with_name(f"{uuid.uuid4().hex}.times"))


def measure(styles: int, wait: float, slots: int, folder: Path) -> dict[str, Any]:
    """Run one job and return its times."""
    tasks = [StyleTask(f"s{i}", Path(), None, "", TrainSettings(), Path()) for i in range(styles)]
    job = TrainingJob(
        folder,
        folder / "base",
        folder / "previews",
        tasks,
        open_worker=partial(open_sleeping, wait),
    )
    started = time.time()
    # Fractions of a CPU: waiting needs none.
    states = run_job(job, SlotPlan(slots, cpus=0.1), lambda snapshot: None)
    assert {s.state for s in states.values()} == {"done"}
    logs = [[float(t) for t in p.read_text().split()] for p in folder.glob("*.times")]
    assert len(logs) == slots and sum(len(times) - 1 for times in logs) == styles
    end = max(times[-1] for times in logs)
    ready = [times[0] for times in logs]
    slot_seconds = sum(end - r for r in ready)
    return {
        "slots": slots,
        "ready_seconds": [round(min(ready) - started, 1), round(max(ready) - started, 1)],
        "wall_seconds": round(end - min(ready), 2),
        "overhead_ms_a_style": round((slot_seconds - styles * wait) / styles * 1000, 1),
        "share_of_linear": round(styles * wait / slot_seconds, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--styles", type=int, default=500)
    parser.add_argument("--wait", type=float, default=0.5)
    parser.add_argument("--slots", default="1,2,4,8")
    args = parser.parse_args()
    start_ray()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n in args.slots.split(","):
            rows.append(measure(args.styles, args.wait, int(n), Path(folder) / n))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"styles": args.styles, "wait": args.wait, "runs": rows}, indent=2))


if __name__ == "__main__":
    main()

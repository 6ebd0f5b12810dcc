"""Scheduling by itself: many styles of a negligible training each, on 1, 2, 4 and 8 slots.

A style waits instead of computing, so that two cores suffice. Run: python -m
tests.benchmarks.scheduling [--styles 500] [--wait 0.5] [--slots 1,2,4,8]. Prints JSON: for each
number of slots the wall time from the first lease to the last style, the overhead a style, and
the speed as a share of linear; the starting of the slots stands apart.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from factory import bulk
from factory.work import OnIteration, StyleTask


class Waiting:
    """A bench whose training is a wait."""

    def train(self, task: StyleTask, on_iteration: OnIteration) -> None:
        time.sleep(task.settings["wait"])
        on_iteration(1, 1, {"total": 0.0})


def open_waiting(base: Path, previews: Path, device: str) -> Waiting:
    return Waiting()


def measure(styles: int, wait: float, slots: int, folder: Path) -> dict[str, Any]:
    """One run of a job of that many styles."""
    tasks = [StyleTask(f"s{i}", "", None, "", {"wait": wait}, "") for i in range(styles)]
    job = bulk.TrainingJob(
        folder, folder / "base", folder / "previews", tasks, open_bench=open_waiting
    )
    first: list[float] = []
    last: list[float] = []

    def on_progress(snapshot: bulk.Snapshot) -> None:
        leased = [s["since"] for s in snapshot.values() if "since" in s]
        if leased and not first:
            first.append(min(leased))
        last[:] = [time.time()]

    started = time.time()
    # Fractions of a CPU: waiting needs none.
    bulk.run_job(job, bulk.SlotPlan(slots, cpus=0.1), on_progress)
    wall = last[0] - first[0]
    ideal = styles * wait / slots
    return {
        "slots": slots,
        "start_seconds": round(first[0] - started, 2),
        "wall_seconds": round(wall, 2),
        "overhead_ms_a_style": round((wall - ideal) * slots / styles * 1000, 1),
        "share_of_linear": round(ideal / wall, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--styles", type=int, default=500)
    parser.add_argument("--wait", type=float, default=0.5)
    parser.add_argument("--slots", default="1,2,4,8")
    args = parser.parse_args()
    bulk.start_ray()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(args.styles, args.wait, int(n), Path(folder) / n) for n in args.slots.split(",")
        ]
    print(json.dumps({"styles": args.styles, "wait": args.wait, "runs": rows}, indent=2))


if __name__ == "__main__":
    main()

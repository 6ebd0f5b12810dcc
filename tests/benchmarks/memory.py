"""Memory of the corpus pipeline for a corpus and a quarter of it.

    python -m tests.benchmarks.memory --store 80 --megabytes 440

Photos of about 0.7 MB pass whole (``--detail``) through an object store of ``--store`` MB, with the
tests' tiny base and a new Ray instance per run. Prints one JSON document with the peaks of the
object store's use, of the bytes spilled to disk, and of the memory of all processes of the job
(proportional set size without the object store).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[2]
PHOTO_BYTES = 700_000


def write_photo(path: Path, seed: int) -> None:
    """Write a small JPEG, padded with comment segments to ``PHOTO_BYTES``."""
    import io

    import numpy as np

    from tests.tiny import picture

    buffer = io.BytesIO()
    picture(seed, (320, 240)).save(buffer, "JPEG", quality=90)
    head, rest = buffer.getvalue()[:2], buffer.getvalue()[2:]
    noise = np.random.RandomState(seed).bytes(65533)
    segment = b"\xff\xfe\xff\xff" + noise
    path.write_bytes(head + segment * (PHOTO_BYTES // len(segment)) + rest)


def process_tree() -> list[int]:
    """The ids of this process and its descendants."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # the process has ended
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [os.getpid()]
    for pid in found:
        found += children.get(pid, [])
    return found


def tree_bytes() -> int:
    """Memory of this process and its descendants, without the object store."""
    total = 0
    for pid in process_tree():
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        found = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
        total += 1024 * (found.get("Pss", 0) - found.get("Pss_Shmem", 0))
    return total


class Peaks(threading.Thread):
    """Samples memory every half second and keeps the maxima, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.store = self.spilled = self.memory = 0

    def run(self) -> None:
        import ray
        from ray._private.internal_api import get_memory_info_reply, get_state_from_address

        state = get_state_from_address(ray.get_runtime_context().gcs_address)
        while not self.ended.wait(0.5):
            stats = get_memory_info_reply(state).store_stats
            self.store = max(self.store, stats.object_store_bytes_used)
            self.spilled = max(self.spilled, stats.spilled_bytes_total)
            self.memory = max(self.memory, tree_bytes())


def child(home: str, source: str, output: str, store: int) -> None:
    """Run one job with its own Ray instance and print its peaks."""
    import logging

    import ray

    from factory.core.home import Home
    from factory.core.ray_cluster import CORPUS_ENV, LOCAL_RAY
    from pipelines import stylize

    os.environ.update(LOCAL_RAY | CORPUS_ENV)
    ray.init(
        address="local", num_cpus=2, object_store_memory=store * 1_000_000, log_to_driver=False,
        include_dashboard=False, logging_level=logging.ERROR,
    )  # fmt: skip
    peaks = Peaks()
    peaks.start()
    started = time.monotonic()
    result = stylize(
        ["oil"], source, output, home=Home.find(home), detail=True, format="jpeg", workers=2,
        contact_sheet=False,
    )  # fmt: skip
    peaks.ended.set()
    peaks.join()
    assert not result.errors
    row = {
        "photos": result.photos,
        "seconds": round(time.monotonic() - started, 1),
        "object_store_peak_mb": round(peaks.store / 1e6, 1),
        "spilled_mb": round(peaks.spilled / 1e6, 1),
        "processes_peak_mb": round(peaks.memory / 1e6, 1),
    }
    print(json.dumps(row))
    ray.shutdown()


def measure(store: int, megabytes: int) -> dict[str, Any]:
    """Peaks of a quarter of a corpus, and of the whole corpus."""
    from factory.core.home import Home
    from tests.factory.conftest import import_tiny
    from tests.pipelines.conftest import register
    from tests.tiny import write_sources

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_sources(root / "sources")
        assert import_tiny(root / "home", root / "sources").code == 0
        register(Home(root / "home"), "oil")
        (root / "photos").mkdir()
        names = []
        while len(names) * PHOTO_BYTES < megabytes * 1e6:
            names.append(f"{len(names):05d}.jpg")
            write_photo(root / "photos" / names[-1], len(names))
        rows = []
        for part in (names[: len(names) // 4], names):
            listed = root / "photos" / "list.txt"
            listed.write_text("\n".join(part))
            output = root / f"out-{len(part)}"
            command = [*(sys.executable, "-m", "tests.benchmarks.memory", "--run"),
                       *map(str, (root / "home", listed, output, store))]  # fmt: skip
            ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
            size = sum((root / "photos" / n).stat().st_size for n in part)
            rows.append({"corpus_mb": round(size / 1e6, 1),
                         **json.loads(ran.stdout.splitlines()[-1])})  # fmt: skip
    return {"object_store_mb": store, "runs": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=int, default=80, help="size of the object store, in MB")
    parser.add_argument(
        "--megabytes", type=int, default=440, help="size of the whole corpus, in MB"
    )
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        child(*args.run[:3], int(args.run[3]))
    else:
        print(json.dumps(measure(args.store, args.megabytes), indent=2))


if __name__ == "__main__":
    main()

"""Time to list a large registry on sqlite: many styles with several versions each.

    python -m tests.benchmarks.registry [--styles 1000] [--versions 4]

The versions are created through MLflow's client, without files. Prints JSON: wall and CPU seconds
of `styles list` in a new process, with the large registry and with an empty home, and of the query
``Registry.all_versions`` alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from factory.core.home import Home
from factory.registry import CHAMPION, KIND_TAG, Registry


def fill(registry: Registry, styles: int, versions: int) -> None:
    """Register models with the tags and aliases of trained styles, without runs and files."""
    for i in range(styles):
        name = f"style-{i:05d}"
        registry.client.create_registered_model(name, tags={KIND_TAG: "style"})
        for k in range(versions):
            tags = {"fingerprint": f"{i:08x}{k:08x}", "base": "0123", "base_name": "portraits64"}
            tags |= {"licence": "CC0", "tags": "oil,portrait", "previews": "0" * 64}
            source = registry.home.artifacts / f"{i}-{k}" / "style"
            registry.client.create_model_version(name, source=source.as_uri(), tags=tags)
        registry.client.set_registered_model_alias(name, CHAMPION, str(versions))


def timed(action: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The action's result, and its wall and CPU seconds (this process and its children)."""

    def cpu() -> float:
        used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in used)

    before, started = cpu(), time.perf_counter()
    result = action()
    seconds = time.perf_counter() - started
    return result, {"seconds": round(seconds, 2), "cpu_seconds": round(cpu() - before, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--styles", type=int, default=1000)
    parser.add_argument("--versions", type=int, default=4)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        registry = Registry(home)
        _, filling = timed(lambda: fill(registry, args.styles, args.versions))
        listed, look = timed(registry.all_versions)
        assert sum(map(len, listed.values())) == args.styles * args.versions
        command = [sys.executable, "-m", "factory.cli", "styles", "list", "--home", folder]
        ran, whole = timed(lambda: subprocess.run(command, capture_output=True, check=True))
        assert len(ran.stdout.splitlines()) == args.styles
        _, empty = timed(
            lambda: subprocess.run([*command[:-1], f"{folder}/empty"], capture_output=True)
        )
    print(
        json.dumps(
            {
                "styles": args.styles,
                "versions": args.styles * args.versions,
                "filling": filling,
                "look_up": look,
                "styles_list": whole,
                "styles_list_of_an_empty_home": empty,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()

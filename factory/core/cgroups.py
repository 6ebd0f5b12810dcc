"""CPU quota and memory limit of this process's control groups, version 1 or 2.

Ray and joblib read the limits at the top of the file system of control groups, which in a container
are the container's own. A service of systemd and a Slurm job have theirs further down.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

LISTING, ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def cpu_quota(listing: Path = LISTING, root: Path = ROOT) -> float:
    """CPUs that the process may use on average; infinite without a quota.

    listing: the file that names the process's groups. root: where their file systems are mounted.
    """
    least = math.inf
    for folder in _folders("cpu", listing, root):
        if text := _read(folder / "cpu.max"):
            quota, period = text.split()
        else:
            quota, period = (_read(folder / f"cpu.cfs_{n}_us") for n in ("quota", "period"))
        # Without a quota it is "max" in version 2, and -1 in version 1.
        if quota.isdigit() and period.isdigit():
            least = min(least, int(quota) / int(period))
    return least


def memory_limit(listing: Path = LISTING, root: Path = ROOT) -> float:
    """Bytes of memory that the process may use; infinite without a limit. See ``cpu_quota``."""
    limits = [
        _read(folder / name)
        for folder in _folders("memory", listing, root)
        for name in ("memory.max", "memory.limit_in_bytes")
    ]
    return min((float(limit) for limit in limits if limit.isdigit()), default=math.inf)


def _folders(controller: str, listing: Path, root: Path) -> Iterator[Path]:
    """The folders of the process's group and of the groups around it, for one controller.

    Some may not exist: in a container the listing can name the path of the host.
    """
    for line in _read(listing).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            top = root
        elif controller in controllers.split(","):
            top = root / controller
        else:
            continue
        folder = top / path.lstrip("/")
        while folder != top:
            yield folder
            folder = folder.parent
        yield top


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""

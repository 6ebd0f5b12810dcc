"""Limits of control groups, read from files as the kernel writes them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from factory.core.cgroups import cpu_quota, memory_limit

GIB = 1 << 30
HOST = "/docker/1f3a"
UNLIMITED_V1 = "9223372036854771712"
V1 = "4:memory:{0}\n2:cpu,cpuacct:{0}\n1:name=systemd:{0}\n0::/\n"


def quota_v1(quota: int) -> dict[str, str]:
    return {"cpu.cfs_quota_us": f"{quota}\n", "cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("listing", "files", "cpus", "memory"),
    [
        pytest.param(
            "0::/system.slice/factory.service\n",
            {
                "system.slice/factory.service": {"cpu.max": "150000 100000\n", "memory.max": "max"},
                "system.slice": {"cpu.max": "max 100000\n", "memory.max": f"{4 * GIB}\n"},
            },
            1.5,
            4 * GIB,
            id="systemd, version 2",
        ),
        pytest.param(
            V1.format("/system.slice/factory.service"),
            {
                "cpu/system.slice/factory.service": quota_v1(50_000),
                "cpu/system.slice": quota_v1(400_000),
                "memory/system.slice/factory.service": {"memory.limit_in_bytes": f"{2 * GIB}\n"},
                "memory": {"memory.limit_in_bytes": UNLIMITED_V1},
            },
            0.5,
            2 * GIB,
            id="systemd, version 1",
        ),
        pytest.param(
            V1.format(HOST),
            {"cpu": quota_v1(100_000), "memory": {"memory.limit_in_bytes": f"{GIB}\n"}},
            1,
            GIB,
            id="container with its host's path",
        ),
        pytest.param(
            "0::/\n", {"": {"cpu.max": "300000 100000", "memory.max": "max"}}, 3, math.inf,
            id="container, version 2",
        ),
        pytest.param(V1.format("/"), {"cpu": quota_v1(-1)}, math.inf, math.inf, id="no limit"),
        pytest.param("", {}, math.inf, math.inf, id="no control groups"),
    ],
)  # fmt: skip
def test_limits(
    tmp_path: Path, listing: str, files: dict[str, dict[str, str]], cpus: float, memory: float
) -> None:
    (tmp_path / "listing").write_text(listing)
    for folder, contents in files.items():
        (tmp_path / "fs" / folder).mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            (tmp_path / "fs" / folder / name).write_text(text)
    where = (tmp_path / "listing", tmp_path / "fs")
    assert (cpu_quota(*where), memory_limit(*where)) == (cpus, memory)


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "none", tmp_path) == math.inf

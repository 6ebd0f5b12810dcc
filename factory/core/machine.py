"""CPUs and memory that workers may use: those of this process's container, or of the cluster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import joblib

from factory.core.cgroups import cpu_quota

# Resident memory of a worker process besides its models: Python, torch, Ray and image buffers.
PROCESS_BYTES = 1 << 30


def usable_cpus() -> int:
    """CPUs that this process may use: at most its affinity and the quota of its cgroup."""
    return max(1, math.ceil(min(joblib.cpu_count(), cpu_quota())))


def cpu_workers(resources: Mapping[str, float], base: Path, copies: int) -> int:
    """How many worker processes a Ray cluster has CPUs and memory for; at least 1.

    resources: of ``ray_cluster.offered_resources()``. copies: how often a worker holds the base's
    bytes, as weights, optimiser state and activations.
    """
    cpus = int(resources.get("CPU", 1))
    base_bytes = sum(p.stat().st_size for p in base.glob("*.safetensors"))
    memory = resources.get("memory", float("inf"))
    return max(1, int(min(cpus, memory / (PROCESS_BYTES + copies * base_bytes))))

"""CPUs and memory that workers may use: those of this process's container, or of the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import joblib

# Resident memory of a worker process besides its models: Python, torch, Ray and image buffers.
PROCESS_BYTES = 1 << 30


def usable_cpus() -> int:
    """CPUs that this process may use: at most its affinity and the quota of its cgroup."""
    return max(1, int(joblib.cpu_count()))


def cpu_workers(resources: Mapping[str, float], base: Path, copies: int) -> int:
    """How many worker processes a Ray cluster has CPUs and memory for; at least 1.

    resources: of ``ray.cluster_resources()``, whose memory respects cgroup limits. copies: how
    often a worker holds the base's bytes, as weights, optimiser state and activations.
    """
    cpus = int(resources.get("CPU", 1))
    base_bytes = sum(p.stat().st_size for p in base.glob("*.safetensors"))
    memory = resources.get("memory", float("inf"))
    return max(1, int(min(cpus, memory / (PROCESS_BYTES + copies * base_bytes))))

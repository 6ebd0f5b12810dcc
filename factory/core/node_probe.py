"""What a node of a Ray cluster has: packages, GPUs, the home, space, memory and its clock."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from factory.core.local_cache import cache_folder
from factory.core.object_store import StoreError
from factory.core.stores import Store, local_folder, open_store
from osasis.errors import UserError

# Whose versions all nodes must share.
PACKAGES = ("ray", "torch", "style-factory")
SHARED_MEMORY = Path("/dev/shm")
PROBE_SECONDS = 60.0


@dataclass(frozen=True)
class NodeProbe:
    """Facts of one node. Sizes are in bytes.

    versions: of Python and of PACKAGES, "" where one is missing. gpus: that PyTorch finds. reads:
    whether the node sees a file that the driver has written in the home. writes: "", or why the
    node cannot write there. clock: its time in seconds since the epoch.
    """

    versions: dict[str, str]
    gpus: int
    reads: bool
    writes: str
    disk_free: int
    memory_free: int
    shared_memory: int
    clock: float


@dataclass(frozen=True)
class Node:
    """A node that Ray lists. name: its address. gpus: that Ray offers there."""

    id: str
    name: str
    gpus: int

    @classmethod
    def all(cls) -> list[Node]:
        """The living nodes of the connected cluster."""
        return [
            cls(n["NodeID"], n["NodeManagerAddress"], int(n["Resources"].get("GPU", 0)))
            for n in ray.nodes()
            if n["Alive"]
        ]


def probe_nodes(nodes: list[Node], home: str) -> dict[str, NodeProbe | str]:
    """The probe of each node by its id, or why there is none. home: path or URI."""
    store, mark = open_store(home), f".doctor-{uuid.uuid4().hex}"
    try:
        store.write(mark, b"")
    except StoreError:
        raise
    except OSError as e:
        raise UserError(f"home {home} cannot be written ({_reason(e)}); give --home") from None
    try:
        tasks = {node.id: _task(node).remote(home, mark) for node in nodes}
        return {id: _result(task) for id, task in tasks.items()}
    finally:
        store.delete([mark])


def _task(node: Node) -> Any:
    # It takes no CPU or GPU, so that a busy node answers; PyTorch then sees all of its GPUs.
    where = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return ray.remote(probe).options(num_cpus=0, max_retries=0, scheduling_strategy=where)


def _result(task: ray.ObjectRef) -> NodeProbe | str:
    try:
        found: NodeProbe = ray.get(task, timeout=PROBE_SECONDS)
        return found
    except ray.exceptions.GetTimeoutError:
        ray.cancel(task, force=True)
        return f"no task ran there within {PROBE_SECONDS:g} s"
    except Exception as e:
        return (str(e).strip().splitlines() or [type(e).__name__])[-1]


def probe(home: str, mark: str) -> NodeProbe:
    """The facts of this node. mark: name of the file that the driver has written in the home."""
    reads, problem = _access(open_store(home), mark)
    place = local_folder(open_store(home)) or cache_folder()
    existing = next(p for p in (place, *place.parents) if p.exists())
    shared = shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.is_dir() else 0
    return NodeProbe(
        versions=own_versions(),
        gpus=_visible_gpus(),
        reads=reads,
        writes=problem,
        disk_free=shutil.disk_usage(existing).free,
        memory_free=psutil.virtual_memory().available,
        shared_memory=shared,
        clock=time.time(),
    )


def _access(home: Store, mark: str) -> tuple[bool, str]:
    """Whether this node reads the mark, and "" or why it cannot write."""
    own = f"{mark}-{uuid.uuid4().hex}"
    try:
        reads = home.changed(mark) is not None
        home.write(own, b"")
        home.delete([own])
    except OSError as e:
        return False, _reason(e)
    return reads, ""


def _reason(error: OSError) -> str:
    if isinstance(error, StoreError):
        return str(error)
    return (error.strerror or type(error).__name__).lower()


def own_versions() -> dict[str, str]:
    """The versions of Python and of PACKAGES here."""
    return {"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _visible_gpus() -> int:
    """GPUs that PyTorch finds; 0 where it is missing."""
    try:
        import torch
    except ImportError:
        return 0
    return torch.cuda.device_count()

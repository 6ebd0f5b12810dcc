"""Checks of an installation and its cluster: what a run would need, before it runs."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from factory.core.home import Home
from osasis.errors import UserError

if TYPE_CHECKING:
    from factory.core.node_probe import Node, NodeProbe

GB = 1e9
# Below these, runs fail or crawl.
LEAST_DISK, LEAST_MEMORY, LEAST_SHARED = 5 * GB, 2 * GB, 0.5 * GB
# Heartbeats and leases allow for small differences only.
MOST_SKEW = 5.0

Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One check. subject: what was checked. advice: what to do; "" where nothing is wrong."""

    subject: str
    status: Status
    found: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.status:7}  {self.subject}: {self.found}" + (
            f"; {self.advice}" if self.advice else ""
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(home: Home) -> Iterator[Finding]:
    """Check the cluster of RAY_ADDRESS or this machine, the home, the registry and the bases."""
    created = home.uri is None and not home.path.exists()
    if created:
        advice = "the first training creates it; check --home"
        yield Finding("home", "warning", f"{home.path} does not exist", advice)
    yield from _checked("Ray", lambda: _cluster(home))
    if created:
        home.path.rmdir()
    else:
        yield from _checked("registry", lambda: _registry(home))
    yield from _checked("bases", lambda: _bases(home))
    yield from _checked("speed", _speed)


def _checked(subject: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check; one that stops it is its last."""
    try:
        yield from check()
    except UserError as e:
        found, _, advice = str(e).partition("; ")
        yield Finding(subject, "error", found, advice)


def _cluster(home: Home) -> Iterator[Finding]:
    from factory.core.node_probe import Node, own_versions, probe_nodes
    from factory.core.ray_cluster import cluster_address, offered_resources, start_ray

    start_ray()
    nodes, offered = Node.all(), offered_resources()
    where = cluster_address() or "a local Ray, started for this check"
    counts = f"{len(nodes)} node(s), {offered.get('CPU', 0):g} CPU(s)"
    yield Finding("Ray", "ok", f"{where}: {counts}, {offered.get('GPU', 0):g} GPU(s)")
    before = time.time()
    probes = probe_nodes(nodes, home.location)
    after = time.time()
    mine = own_versions()
    for node in nodes:
        found = probes[node.id]
        if isinstance(found, str):
            yield Finding(f"node {node.name}", "error", found, "look at the node's Ray logs")
        else:
            yield from node_findings(node, found, home, mine, (before, after))


def node_findings(
    node: Node, found: NodeProbe, home: Home, versions: dict[str, str], clock: tuple[float, float]
) -> Iterator[Finding]:
    """Findings of a node's probe. versions, clock: of the driver; its times around the probe."""
    subject = f"node {node.name}"
    yield from _versions(subject, found.versions, versions)
    if node.gpus or found.gpus:
        yield _gpus(subject, node.gpus, found.gpus)
    yield _home(subject, home, found.reads, found.writes)
    place = "home" if home.uri is None else "cache"
    yield _room(subject, f"free disk of the {place}", found.disk_free, LEAST_DISK)
    yield _room(subject, "free memory", found.memory_free, LEAST_MEMORY)
    yield _shared_memory(subject, found.shared_memory)
    skew = max(clock[0] - found.clock, found.clock - clock[1], 0.0)
    if skew > MOST_SKEW:
        advice = "synchronise the clocks of all nodes (NTP)"
        yield Finding(subject, "warning", f"its clock is {skew:.0f} s off", advice)


def _versions(subject: str, found: dict[str, str], mine: dict[str, str]) -> Iterator[Finding]:
    for package, version in found.items():
        if version == mine[package]:
            continue
        text = f"{package} {version or 'is missing'}, here {mine[package]}"
        advice = "install the same versions on all nodes, as infra/Dockerfile does"
        yield Finding(subject, "error", text, advice)


def _gpus(subject: str, offered: int, seen: int) -> Finding:
    if seen >= offered:
        return Finding(subject, "ok", f"{seen} GPU(s)")
    return Finding(
        subject,
        "error",
        f"Ray offers {offered} GPU(s), but PyTorch finds {seen}",
        "check the driver with nvidia-smi and that PyTorch is a CUDA build",
    )


def _home(subject: str, home: Home, reads: bool, problem: str) -> Finding:
    if problem:
        advice = "mount it there for this user"
        if home.uri is not None:
            advice = "set the store's endpoint and credentials in the node's environment"
        text = f"home {home.location} cannot be written: {problem}"
        return Finding(subject, "error", text, advice)
    if not reads:
        advice = "all nodes must share it under the same path; mount it there"
        if home.uri is not None:
            advice = "set the same endpoint in the environment of all nodes"
        text = f"home {home.location} is another one than here"
        return Finding(subject, "error", text, advice)
    return Finding(subject, "ok", f"home {home.location} can be read and written")


def _room(subject: str, what: str, size: float, least: float) -> Finding:
    found = f"{size / GB:.1f} GB {what}"
    if size >= least:
        return Finding(subject, "ok", found)
    return Finding(subject, "warning", found, f"runs need at least {least / GB:g} GB")


def _shared_memory(subject: str, size: float) -> Finding:
    found = f"{size / GB:.1f} GB of /dev/shm"
    if size >= LEAST_SHARED:
        return Finding(subject, "ok", found)
    advice = "Ray then keeps objects on disk; start the container with --shm-size=2g"
    return Finding(subject, "warning", found, advice)


def _registry(home: Home) -> Iterator[Finding]:
    from factory.core.uris import redact
    from factory.registry import Registry

    registry = Registry(home)
    count = len(registry.all_versions())
    registry.check_writable()
    yield Finding("registry", "ok", f"{redact(home.tracking_uri)}: {count} style(s), writable")


def _bases(home: Home) -> Iterator[Finding]:
    from factory.core.bases import list_bases
    from factory.methods import load_base

    for info in list_bases(home):
        subject = f"base {info['name']}"
        load_base(home.base_folder(info["name"]))
        size = info["bytes"] / 1e6
        yield Finding(subject, "ok", f"{size:.1f} MB, {info['fingerprint']}, hashes agree")


def _speed() -> Iterator[Finding]:
    base, preset, seconds = _style_seconds()
    found = f"a style of base {base} with preset {preset} takes {seconds:.0f} s on one core here"
    yield Finding("speed", "ok", found)


@functools.cache
def _style_seconds() -> tuple[str, str, float]:
    """Name and preset of the package's first base, and the estimated seconds of a style of it."""
    import torch

    from factory.methods import load_base
    from factory.methods.interface import TrainingInputs
    from factory.training.estimate import measure
    from osasis.bundles.files import shipped_bases
    from osasis.images.tensors import from_uint8, tensor_to_image

    folder = next(iter(shipped_bases().values()))
    base = load_base(folder)
    settings = base.method.make_settings(base.preset)
    assert base.photos is not None and base.held_out is not None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a slot
    try:
        with tempfile.TemporaryDirectory() as place:
            _, bank = base.ready_bank(settings, Home(Path(place)))
            image = Path(place) / "photo.png"
            tensor_to_image(from_uint8(base.photos)[0]).save(image)
            previews = from_uint8(base.held_out)
            inputs = TrainingInputs(image, "photo", None, settings, Path(place), bank, previews)
            seconds, _ = measure(str(folder), str(image), inputs, "cpu")
            return base.name, base.preset, seconds
    finally:
        torch.set_num_threads(threads)

"""Settings of serving, validated all at once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from osasis.errors import UserError, did_you_mean

MB = 1_000_000


@dataclass(frozen=True)
class Limits:
    """What one request may ask for. Bytes are of the whole body; pixels are checked in a
    picture's header, before any is decoded; seconds are those of one request."""

    body_bytes: int = 25 * MB
    pixels: int = 50_000_000
    frames: int = 1
    images: int = 8
    job_images: int = 64
    styles: int = 4
    encode_steps: int = 200
    decode_steps: int = 200
    seconds: float = 120.0


@dataclass(frozen=True)
class ServeConfig:
    """How styles are served.

    queue: images accepted and not answered yet, over which requests get 503; bodies: the same for
    the bytes of their bodies; both for each ingress. batch: images that
    an engine takes at once; batch_wait: seconds that the first of them waits for others.
    styles_host, styles_device, encodings: byte budgets of an engine's caches; photos: of the
    keeper's. pinned: styles that stay loaded; prewarm: how many more are loaded at the start.
    poll: seconds between two looks at the registry. stall: seconds without a finished step after
    which an engine counts as sick. keys: file of API keys; None serves everybody. log: file of
    JSON lines; None is standard error.
    """

    home: str | None = None
    base: str | None = None
    replicas: int = 1
    ingresses: int = 1
    device: str | None = None
    threads: int | None = None
    engine_cpus: float = 1.0
    engine_gpus: float = 0.0
    queue: int = 64
    bodies: int = 256 * MB
    batch: int = 8
    batch_wait: float = 0.01
    styles_host: int = 2000 * MB
    styles_device: int = 1000 * MB
    encodings: int = 256 * MB
    photos: int = 64 * MB
    pinned: tuple[str, ...] = ()
    prewarm: int = 2
    poll: float = 1.0
    stall: float = 120.0
    drain: float = 60.0
    jobs: int = 64
    job_age: float = 3600.0
    keys: str | None = None
    log: str | None = None
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str = "config") -> ServeConfig:
        """Build from plain data. Raises UserError that names every problem at once."""
        if not isinstance(data, dict):
            raise UserError(f"{source}: it must be an object of settings")
        problems: list[str] = []
        values = _read(cls, data, "", problems)
        given = data.get("limits")
        if isinstance(given, dict):
            values["limits"] = Limits(**_read(Limits, given, "limits.", problems))
        elif given is not None:
            problems.append(f"limits is {given!r}; it must be an object")
        if problems:
            raise UserError(f"{source}: " + "; ".join(problems))
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "pinned": list(self.pinned)}


# Ranges where they are not "from 1" for counts and "above 0" for the others.
RANGES: dict[str, tuple[float, float]] = {
    "replicas": (1, 1000),
    "ingresses": (1, 100),
    "engine_cpus": (0, 1024),
    "engine_gpus": (0, 16),
    "batch_wait": (0, 10),
    "prewarm": (0, 10_000),
    "styles_host": (0, 1e13),
    "styles_device": (0, 1e13),
    "encodings": (0, 1e13),
    "photos": (0, 1e13),
    "poll": (0.05, 3600),
    "drain": (0, 3600),
}


def _read(cls: type, data: dict[str, Any], prefix: str, problems: list[str]) -> dict[str, Any]:
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, value in data.items():
        if name not in hints:
            problems.append(f"unknown setting {prefix}{name!s}{did_you_mean(str(name), hints)}")
        elif name == "limits":
            continue
        elif reason := _problem(name, value, hints[name]):
            problems.append(f"{prefix}{name} is {value!r}; {reason}")
        else:
            values[name] = tuple(value) if name == "pinned" else value
    return values


def _problem(name: str, value: Any, hint: Any) -> str | None:
    kinds = getattr(hint, "__args__", (hint,))
    if value is None and type(None) in kinds:
        return None
    if name == "pinned":
        good = isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
        return None if good else "it must be a list of styles"
    if str in kinds:
        return None if isinstance(value, str) else "it must be text"
    number = float if float in kinds else int
    if isinstance(value, bool) or not isinstance(value, int if number is int else int | float):
        return "it must be a whole number" if number is int else "it must be a number"
    low, high = RANGES.get(name, (1 if number is int else 1e-6, 1e13))
    return None if low <= value <= high else f"it must lie in [{low:g}, {high:g}]"


def load_config(path: Path) -> dict[str, Any]:
    """The plain data of a YAML or JSON file. Raises UserError."""
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as e:
        raise UserError(f"{path}: {(e.strerror or 'cannot be read').lower()}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: no valid YAML ({' '.join(str(e).split())[:120]})") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: it must hold an object of settings")
    return data

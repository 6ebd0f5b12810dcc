"""Training checkpoints: tensors and a JSON object in one safetensors file, written atomically."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from osasis.errors import UserError
from osasis.storage import save_tensors

# The key of the file's metadata that holds the JSON.
INFO = "info"


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically."""
    save_tensors(path, tensors, {INFO: json.dumps(info)})


class CheckpointWriter:
    """Writes checkpoints to one file in a thread of its own, one after the other.

    Leaving the context waits for the last one. An error of writing is raised by the next call.
    """

    def __init__(
        self,
        path: Path,
        every: int | None = None,
        seconds: float = 0.0,
        written: Callable[[], None] | None = None,
    ) -> None:
        """every: iterations between checkpoints; None: at least ``seconds`` between them.

        written: called in the thread after each checkpoint.
        """
        self.path, self.every, self.seconds, self._written = path, every, seconds, written
        self._last = time.monotonic()
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def is_due(self, iteration: int) -> bool:
        """Whether a checkpoint is to be written after this iteration."""
        if self.every is not None:
            return iteration % self.every == 0
        return time.monotonic() - self._last >= self.seconds

    def write(self, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
        """Start writing tensors that nothing changes any more, after the checkpoint before."""
        self.wait()
        self._last = time.monotonic()
        self._pending = self._thread.submit(self._save, tensors, dict(info))

    def _save(self, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
        save_checkpoint(self.path, tensors, info)
        if self._written is not None:
            self._written()

    def wait(self) -> None:
        """Wait for the pending checkpoint. Raises the error of writing it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint: tensors on the CPU and the JSON object.

    Raises FileNotFoundError where the file is missing, UserError where it is not a checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
        info = json.loads(metadata[INFO])
    except (SafetensorError, KeyError, ValueError) as e:
        raise UserError(f"{path}: not a checkpoint ({e}); delete it to start again") from None
    return tensors, info


def check_same_run(path: Path, inputs: Mapping[str, Any], changeable: Collection[str]) -> None:
    """Raise UserError, naming the differences, if a training's file has other inputs.

    inputs: as the file was written, with the settings under ``settings``. changeable: settings that
    may differ.
    """
    before = json.loads(path.read_text())
    different = [k for k in inputs if k != "settings" and before.get(k) != inputs[k]]
    different += [
        f"setting {k} ({before['settings'].get(k)}, now {v})"
        for k, v in inputs["settings"].items()
        if k not in changeable and before["settings"].get(k) != v
    ]
    if different:
        raise UserError(
            f"{path.parent} contains another run, which differs in {', '.join(different)}; "
            "continue it with its own inputs, or choose another folder"
        )


def adam_tensors(
    adam: torch.optim.Adam, parameters: Iterable[tuple[str, Tensor]]
) -> dict[str, Tensor]:
    """Adam's state by the names of its parameters, for ``load_adam_tensors``."""
    return {
        f"optim.{name}:{slot}": value
        for name, p in parameters
        for slot, value in adam.state.get(p, {}).items()
    }


def load_adam_tensors(
    adam: torch.optim.Adam,
    parameters: Iterable[tuple[str, Tensor]],
    tensors: Mapping[str, Tensor],
) -> None:
    """Restore ``adam_tensors``; parameters without a state stay without one."""
    for name, p in parameters:
        for slot in ("step", "exp_avg", "exp_avg_sq"):
            value = tensors.get(f"optim.{name}:{slot}")
            if value is not None:
                # Adam keeps its moments in the parameter's layout, and its step counter on the
                # CPU, or if fused on the parameter's device.
                if slot != "step":
                    own = torch.empty_like(p).copy_(value)
                else:
                    fused = adam.defaults.get("fused")
                    own = value.to(p.device if fused else value.device, copy=True)
                adam.state[p][slot] = own

"""GPUs of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

from factory.core.failures import describe_failure
from osasis.devices import required_device
from osasis.errors import UserError


def cluster_gpus() -> int:
    """Number of GPUs that the connected cluster offers."""
    return int(ray.cluster_resources().get("GPU", 0))


def workers_on(gpus: int, share: float) -> int:
    """How many workers of ``share`` GPUs each fit: of a part of one GPU, or of whole GPUs."""
    return int(1 / share) * gpus if share <= 1 else int(gpus / share)


def fair_share(gpus: int, workers: int) -> float:
    """GPUs of each of ``workers`` workers: a whole one, or an equal part of one.

    A whole number of workers per GPU: 3 workers on 2 GPUs take half a GPU each, so all fit.
    """
    return 1 / -(-workers // gpus)


def remote_task(function: Callable[..., Any], *, gpu: bool) -> Any:
    """A Ray task on one GPU or one CPU. A GPU's memory is free again when the task ends."""
    if not gpu:
        return ray.remote(num_cpus=1, max_retries=3)(function)
    # An idle worker would keep its GPU memory. ``options`` cannot set max_calls.
    return ray.remote(num_cpus=0, num_gpus=1, max_calls=1, max_retries=3)(function)


def check_gpu() -> None:
    """Raise UserError where PyTorch finds no GPU on a node whose GPUs Ray offers."""
    try:
        ray.get(remote_task(required_device, gpu=True).remote("cuda"))
    except UserError as e:
        # Ray's error of a task is also a UserError, whose text is a traceback.
        raise UserError(describe_failure(e)) from None

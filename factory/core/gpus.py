"""GPUs of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

from factory.core.failures import describe_failure
from osasis.devices import required_device
from osasis.errors import UserError

# A check fits beside other work on the GPU.
CHECK_SHARE, CHECK_SECONDS = 0.01, 60


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


def remote_task(function: Callable[..., Any], *, gpus: float) -> Any:
    """A Ray task on a share of a GPU, or for 0 on one CPU. Its GPU memory is free when it ends."""
    if not gpus:
        return ray.remote(num_cpus=1, max_retries=3)(function)
    # An idle worker would keep its GPU memory. ``options`` cannot set max_calls.
    return ray.remote(num_cpus=0, num_gpus=gpus, max_calls=1, max_retries=3)(function)


def check_gpu() -> None:
    """Raise UserError where PyTorch finds no GPU on a node whose GPUs Ray offers.

    Returns unchecked where all GPUs are in use.
    """
    task = remote_task(required_device, gpus=CHECK_SHARE).remote("cuda")
    try:
        ray.get(task, timeout=CHECK_SECONDS)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(task)
    except UserError as e:
        # Ray's error of a task is also a UserError, whose text is a traceback.
        raise UserError(describe_failure(e)) from None

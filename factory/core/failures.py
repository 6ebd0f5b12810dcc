"""What sort of failure an error is, and the line that tells a user of it."""

from __future__ import annotations

import re

import torch

from osasis.errors import ImageError, UserError
from osasis.train import DivergedError

# Kinds of failures. What is wrong with an image or a setting stays wrong.
DIED, MEMORY, ERROR, DIVERGED, IMAGE, INPUT = (
    "died",
    "memory",
    "error",
    "diverged",
    "image",
    "input",
)
KINDS = (DIED, MEMORY, ERROR, DIVERGED, IMAGE, INPUT)
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def failure_kind(error: BaseException) -> str:
    """What sort of failure it was; retries are chosen by it."""
    if isinstance(error, DivergedError):
        return DIVERGED
    if isinstance(error, ImageError):
        return IMAGE
    if isinstance(error, UserError):
        return INPUT
    memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return MEMORY if memory or "out of memory" in str(error).lower() else ERROR


def describe_failure(error: BaseException) -> str:
    """One line for the report: a user's mistake as it stands, anything else with its type."""
    # Ray wraps what a task raised, with a traceback as its text.
    while isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    lines = [line.strip() for line in ANSI.sub("", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or [''])[-1][:300]}"

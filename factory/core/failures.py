"""Failure kinds, and one-line descriptions of errors for reports. Imports no torch."""

from __future__ import annotations

import re

from osasis.errors import DivergedError, ImageError, UserError

DIED = "died"  # the worker process ended
MEMORY = "memory"
ERROR = "error"
DIVERGED = "diverged"
IMAGE = "image"
INPUT = "input"
KINDS = (DIED, MEMORY, ERROR, DIVERGED, IMAGE, INPUT)
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def failure_kind(error: BaseException) -> str:
    """The kind of an error; a run retries failures by kind."""
    if isinstance(error, DivergedError):
        return DIVERGED
    if isinstance(error, ImageError):
        return IMAGE
    if isinstance(error, UserError):
        return INPUT
    # torch.OutOfMemoryError is recognised by name, so that this module needs no torch.
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"MemoryError", "OutOfMemoryError"} or "out of memory" in str(error).lower():
        return MEMORY
    return ERROR


def describe_failure(error: BaseException) -> str:
    """One line for a report: the text of a UserError, else the error's type and last line."""
    # Ray wraps the error of a task in an error whose text is a traceback.
    while isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    lines = [line.strip() for line in ANSI.sub("", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or [''])[-1][:300]}"

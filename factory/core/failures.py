"""Kinds of failures, and the one line that a report shows for an error. Imports no torch."""

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
    """The kind of an error; a run chooses by kind which failures it retries."""
    if isinstance(error, DivergedError):
        return DIVERGED
    if isinstance(error, ImageError):
        return IMAGE
    if isinstance(error, UserError):
        return INPUT
    # torch.OutOfMemoryError is recognised by name, so that this module needs no torch.
    names = {kind.__name__ for kind in type(error).__mro__}
    memory = names & {"MemoryError", "OutOfMemoryError"} or "out of memory" in str(error).lower()
    return MEMORY if memory else ERROR


def describe_failure(error: BaseException) -> str:
    """One line for a report: the text of a UserError; for other errors the type and last line."""
    # Ray wraps the error of a task in one whose text is a traceback.
    while isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    lines = [line.strip() for line in ANSI.sub("", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or [''])[-1][:300]}"

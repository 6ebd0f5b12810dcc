"""Failure kinds, and one-line descriptions of errors for reports. Imports no torch."""

from __future__ import annotations

import re

from factory.core.claims import SupersededError
from factory.core.disk import find_disk_full
from factory.core.object_store import StoreError
from osasis.errors import DivergedError, ImageError, UserError

DIED = "died"  # the worker process ended
MEMORY = "memory"
ERROR = "error"
# A retry would fail in the same way: wrong code, a missing file, a missing permission.
PERMANENT = "permanent"
DIVERGED = "diverged"
IMAGE = "image"
INPUT = "input"
KINDS = (DIED, MEMORY, ERROR, PERMANENT, DIVERGED, IMAGE, INPUT)
# Kinds that no run retries: these end the run, or leave the style to another job or slot.
DISK = "disk"
SUPERSEDED = "superseded"
STOPPED = "stopped"
# ConnectionError, TimeoutError and the other kinds of OSError may pass.
PERMANENT_ERRORS = (
    *(FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError),
    *(ValueError, TypeError, LookupError, AttributeError, NameError, ArithmeticError),
    *(AssertionError, ImportError, NotImplementedError),
)
USER_ERROR = re.compile(r"\bUserError: (.+)")
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class StoppedError(Exception):
    """The run ends, or the node is about to be lost; the work so far is saved."""


def failure_kind(error: BaseException) -> str:
    """The kind of an error; a run retries failures by kind."""
    if find_disk_full(error) is not None:
        return DISK
    if isinstance(error, StoreError):  # may pass, as other errors of files
        return ERROR
    if isinstance(error, StoppedError):
        return STOPPED
    if isinstance(error, SupersededError):
        return SUPERSEDED
    if isinstance(error, DivergedError):
        return DIVERGED
    if isinstance(error, ImageError):
        return IMAGE
    if isinstance(error, UserError):
        return INPUT
    # torch.OutOfMemoryError is recognised by name, so that this module needs no torch.
    names = {kind.__name__ for kind in type(error).__mro__}
    memory = names & {"MemoryError", "OutOfMemoryError"} or "out of memory" in str(error).lower()
    if memory:
        return MEMORY
    return PERMANENT if isinstance(error, PERMANENT_ERRORS) else ERROR


def find_user_error(error: BaseException) -> UserError | None:
    """The UserError that caused an error of Ray Data, which passes on the text of tracebacks."""
    found = USER_ERROR.search(str(error))
    return UserError(found[1]) if found else None


def describe_failure(error: BaseException) -> str:
    """One line for a report: the text of a UserError, else the error's type and last line."""
    # Ray wraps the error of a task in an error whose text is a traceback.
    while isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    if (full := find_disk_full(error)) is not None:
        return str(full)
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    lines = [line.strip() for line in ANSI.sub("", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or [''])[-1][:300]}"

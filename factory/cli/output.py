"""Prints results to standard output, and progress and errors to standard error."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

# Standard output as it was before ``results_only_on_stdout`` redirected it.
_results: TextIO | None = None


@contextlib.contextmanager
def results_only_on_stdout() -> Iterator[None]:
    """Redirect file descriptor 1 of this process to standard error, except for ``print_result``.

    Notices that libraries and their processes print to standard output would make the document of
    ``--json`` invalid. Replacing ``sys.stdout`` does not redirect C code and child processes.
    """
    global _results
    sys.stdout.flush()
    original = os.dup(1)
    os.dup2(2, 1)
    _results = os.fdopen(os.dup(original), "w", encoding="utf-8")
    try:
        yield
    finally:
        sys.stdout.flush()  # Python's buffer holds output of libraries
        os.dup2(original, 1)
        os.close(original)
        results, _results = _results, None
        results.close()


def print_result(text: str, flush: bool = False) -> None:
    """Print lines of the result to standard output."""
    print(text, file=_results or sys.stdout, flush=flush)


def print_json(document: dict[str, Any]) -> None:
    """Print the JSON document of ``--json`` to standard output."""
    print_result(json.dumps(document, indent=2))


def print_document(document: dict[str, Any], text: str, as_json: bool) -> None:
    """Print a document as JSON, or else the text."""
    if as_json:
        print_json(document)
    else:
        print_result(text)


def print_fields(document: dict[str, Any], as_json: bool) -> None:
    """Print a document as JSON, or as one ``name: value`` line per field."""
    if as_json:
        print_json(document)
        return
    for key, value in document.items():
        if isinstance(value, dict):
            print_result(f"{key}:")
            for k, v in value.items():
                print_result(f"  {k}: {v}")
        else:
            print_result(f"{key}: {value}")


def print_progress(line: str) -> None:
    """Print a line to standard error, unbuffered."""
    print(line, file=sys.stderr, flush=True)


def print_raw(text: str) -> None:
    """Print progress text that contains its own line ends and cursor movements."""
    print(text, end="", file=sys.stderr, flush=True)


def print_error(error: Exception | str, as_json: bool) -> None:
    """Print an error, one line per problem; with --json also as a JSON document."""
    subject = getattr(error, "subject", "")
    problems = getattr(error, "problems", ())
    prefix = f"{subject}: " if subject else ""
    for line in [f"{prefix}{p}" for p in problems] or [str(error)]:
        print_progress(f"error: {line}")
    if as_json:
        document: dict[str, Any] = {"error": str(error)}
        if problems:
            document["problems"] = [vars(p) for p in problems]
        with contextlib.suppress(OSError):  # the error can be a full standard output
            print_result(json.dumps(document, indent=2, default=str))

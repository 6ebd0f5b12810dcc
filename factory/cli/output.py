"""What commands print: results to standard output, progress to standard error."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from osasis.errors import UserError


@contextlib.contextmanager
def results_only_on_stdout() -> Iterator[None]:
    """Libraries and the processes that they start write notices to standard output; send those
    to standard error, and keep standard output for ``_out``."""
    global _results
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    _results = os.fdopen(os.dup(kept), "w", encoding="utf-8")
    try:
        yield
    finally:
        sys.stdout.flush()  # what was printed meanwhile still waits in Python's buffer
        _results.close()
        os.dup2(kept, 1)
        os.close(kept)
        _results = None


_results: TextIO | None = None


def out(text: str, flush: bool = False) -> None:
    """A line of the result, to standard output."""
    print(text, file=_results or sys.stdout, flush=flush)


def fail(args: argparse.Namespace, message: str, code: int) -> int:
    if getattr(args, "json", False):
        out(json.dumps({"error": message}))
    print(f"error: {message}", file=sys.stderr)
    return code


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def show(args: argparse.Namespace, data: dict[str, Any]) -> None:
    if args.json:
        out(json.dumps(data, indent=2))
        return
    for key, value in data.items():
        if isinstance(value, dict):
            out(f"{key}:")
            for k, v in value.items():
                out(f"  {k}: {v}")
        else:
            out(f"{key}: {value}")


def assignments(items: list[str], option: str) -> dict[str, Any]:
    """NAME=VALUE pairs; values are read as JSON where they are JSON, else as text."""
    out: dict[str, Any] = {}
    for item in items:
        name, found, value = item.partition("=")
        if not found or not name:
            raise UserError(f"{option} {item!r}: write NAME=VALUE")
        try:
            out[name] = json.loads(value)
        except json.JSONDecodeError:
            out[name] = value
    return out


def positive(value: int | None, option: str) -> int | None:
    if value is not None and value < 1:
        raise UserError(f"{option} is {value}; it must be at least 1")
    return value
